"""Words of the SYNTHETIC corpus: invented people, places and groups, everyday Tagalog, Cebuano and English.

Nothing here comes from real comments. `{x}` stands for one of the invented people.
"""


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(text.split("; "))


PEOPLE = _phrases("Mayor Talahib; Gob. Amihan; Kon. Bayabas; Kap. Tikling; Sec. Habagat; Atty. Sampaguita")

# (title, weights of the sentiments negative, neutral, positive, weights of non_polarized, objective, partisan, share)
TITLES: tuple[tuple[str, tuple[float, float, float], tuple[float, float, float], float], ...] = (
    ("[synthetic] Mayor Talahib, nagbukas ng bagong palengke sa San Hilario", (0.5, 0.8, 2.8), (1.2, 0.6, 0.9), 1.0),
    ("[synthetic] Gob. Amihan at Kon. Bayabas, nagsagutan sa sesyon", (1.5, 0.5, 0.4), (0.3, 0.6, 1.5), 1.4),
    ("[synthetic] Walang pasok bukas dahil sa ulan, ayon sa kapitolyo", (0.5, 2.6, 0.8), (2.8, 0.9, 0.2), 0.9),
    ("[synthetic] Presyo ng bigas sa Isla Verdeño, tumaas ulit", (1.6, 0.7, 0.2), (0.9, 1.5, 0.9), 1.1),
    ("[synthetic] Survey: Amihan at Talahib, dikit sa botohan", (0.8, 1.0, 1.1), (0.3, 1.4, 1.5), 1.2),
    ("[synthetic] Sec. Habagat explains the 3.2 billion drainage budget", (1.2, 1.0, 0.4), (0.5, 3.2, 0.8), 0.9),
    ("[synthetic] Kap. Tikling, namigay og libreng libro sa mga bata", (0.3, 0.7, 3.6), (2.0, 0.4, 0.5), 0.7),
    ("[synthetic] Bag-ong terminal sa Santa Ligaya, wala pa mahuman", (1.7, 0.8, 0.2), (1.0, 1.2, 0.9), 0.9),
    ("[synthetic] Atty. Sampaguita files complaint against Kon. Bayabas", (1.3, 0.7, 0.6), (0.3, 1.3, 1.4), 1.0),
    ("[synthetic] Trapik sa Tulay ng Maharlika, aabutin ng tatlong buwan", (1.3, 1.3, 0.2), (2.2, 0.8, 0.4), 0.8),
    ("[synthetic] Rally of the Bagwis group draws thousands", (1.0, 0.5, 1.6), (0.2, 0.4, 1.8), 1.1),
    ("[synthetic] Schedule ng bakuna at libreng check-up ngayong linggo", (0.5, 2.2, 1.5), (2.8, 0.7, 0.2), 0.7),
)

SENTIMENT: tuple[tuple[str, ...], ...] = (
    _phrases(  # negative
        "walang kwenta; nakakadismaya; palpak; bulok ang sistema; nakakahiya; grabe ang pahirap; sayang ang buwis; pabaya; way "
        "pulos; maot kaayo; makaluod; kapoy na kaayo; useless; a disgrace; so disappointing; a total failure; sick of this; the "
        "worst; nakakainis; ang pangit; corrupt; a waste of money; they failed us; terrible service; this is shameful"
    ),
    _phrases(  # neutral
        "kailan po ito; saan po banda; anong oras; paano mag-apply; may update na ba; asa ni dapit; unsa nga adlaw; pila ang "
        "bayad; kinsa ang in charge; what time is it; where is this; is this confirmed; any update; tanong lang po; for "
        "information; kanus-a magsugod; following this; which office; who do we ask; when does it start; is there a form"
    ),
    _phrases(  # positive
        "salamat po; ang galing; magaling; ang galing ninyo; saludo ako; nakaka-proud; maayo kaayo; nindot kaayo; daghang salamat; "
        "congrats; well done; so proud; great job; thank you; sulit ang boto; maaasahan; masipag talaga; very inspiring; ang "
        "ganda; a big help; they did it right; excellent service; this is wonderful; maganda ang ginawa; i love this"
    ),
)

POLARIZATION: tuple[tuple[str, ...], ...] = (
    _phrases(  # non_polarized
        "ingat po tayo; good morning; maulan na naman; kumain na ba kayo; amping mong tanan; sana all; pa-shout out; kasama ang "
        "pamilya; my kids love it; weekend na; pauwi na ako; sakay ng tricycle; mainit dito; happy fiesta; kape muna; layo ra "
        "gyud; praying for everyone; miss ko na dyan; nice photo; see you at the plaza; my lola lives there"
    ),
    _phrases(  # objective
        "ayon sa ulat; batay sa datos; sumala sa report; according to the records; the budget is 3.2 billion; Section 5 of the "
        "ordinance; both sides have a point; tingnan ang resibo; check the source; kumpara noong nakaraang taon; the numbers "
        "show it; may audit report; ikumpara ang dalawa; 30 percent; it is in the minutes; the law allows it"
    ),
    _phrases(  # partisan
        "solid {x}; bayaran ang mga kritiko; {x} lang malakas; mga alipores ni {x}; iba ang {x} namin; basta {x} kami; kulto "
        "kayo; trolls na naman; kampo ni {x}; mga Bagwis talaga; Team Bagwis forever; ibagsak ang Lakambini; Lakambini pa rin; "
        "never again kay {x}; {x} for governor; kay {x} ta; mga bias na media; wake up people; {x} all the way"
    ),
)

# What sets two clauses against each other. `{said}` is what does not count: what others say, what was hoped for, what is denied.
# `{meant}` is
# what the writer means. The same words stand on both sides, so that only their order tells which is which.
_AGAINST = _phrases("{said} pero {meant}; {said} but {meant}; {meant} kahit {said}; {meant} although {said}")
_NEGATED = _phrases("hindi {said} kundi {meant}; {meant} at hindi {said}; not {said} but {meant}; {meant} and not {said}")
_QUOTED = _phrases(
    "they say {said}, in truth {meant}; in truth {meant}, they say {said}; sabi nila {said}, ang totoo {meant}; ang totoo {meant}, sabi "
    "nila {said}"
)
TWO_SIDED = {"against": _AGAINST, "negated": _NEGATED, "quoted": _QUOTED}

TROUBLES = _phrases(
    "tatlong oras sa pila; baha na naman; wala pa ring tubig; three years and still no road; brownout gabi-gabi; the roof leaks again"
)
"""What goes wrong. Behind praise it makes mockery of it; in front of praise it is what was mended."""

CREDIT = _phrases(
    "{hero} fixed the mess that {loser} made; {hero} cleaned up after {loser}; inayos ni {hero} ang sinira ni {loser}; giayo ni "
    "{hero} ang guba ni {loser}"
)
"""Praise or blame of the title's person: who fixed, who broke."""

SPELLINGS = {
    "salamat": ("slmt", "salamats", "tnx"),
    "hindi": ("di", "hnd", "hinde"),
    "kaayo": ("kaau", "kau", "kaayu"),
    "galing": ("gling", "galeng"),
    "talaga": ("tlga", "tlaga"),
    "naman": ("nman", "nmn"),
    "walang": ("wlang", "wla"),
    "ako": ("aq",),
    "thank you": ("thank u", "ty"),
    "congrats": ("congratz", "grats"),
    "great": ("gr8",),
    "pero": ("pro", "peru"),
    "ganda": ("gnda",),
    "sayang": ("syang",),
    "palpak": ("palpack", "plpak"),
    "kailan": ("kelan",),
    "saan": ("san",),
    "report": ("rprt",),
    "people": ("ppl",),
    "disappointing": ("dissapointing",),
    "solid": ("sulid",),
    "forever": ("4ever",),
}
"""How some words are also written."""

FILLER = _phrases(
    "ang; mga; sa; na; lang; naman; dito; kami; tayo; sila; bukas; araw; gabi; bata; nanay; tao; tubig; ilaw; gyud; bitaw; naa; "
    "diri; karon; ugma; balay; dalan; the; and; for; with; people; really; maybe; again; today; tomorrow; road; market; school; "
    "hospital; water; light; money; job; line; town; city; news; post; page; video; story; place; time; work; still; just; "
    "because; about; after; before; here; there; everyone; raw; daw; nga; eh; ha; kuya; ate; bes; guys; oo; hala"
)

EMOJI = (
    ("😡", "🤮", "👎", "💩", "😤"),
    ("🤔", "👀", "📌", "🙋"),
    ("\u2764\ufe0f", "👏", "🙏", "🎉", "💪"),
    ("😂", "🤣", "🇵🇭", "✨"),
)
"""Emoji that lean negative, neutral, positive, and the ones that anyone uses."""

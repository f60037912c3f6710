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
        "pulos; maot kaayo; makaluod; kapoy na kaayo; pasagad; useless; what a disgrace; so disappointing; a total failure; sick "
        "of this; worst ever; nakakainis; puro pangako; wala nagtrabaho; ang pangit; corrupt"
    ),
    _phrases(  # neutral
        "kailan po ito; saan po banda; anong oras; paano mag-apply; pa-share po; may update na ba; asa ni dapit; unsa nga adlaw; "
        "pila ang bayad; kinsa ang in charge; what time; where is this; is this confirmed; any update; tanong lang; noted po; for "
        "information; pakibasa; kanus-a magsugod; okay lang; sige po; following this"
    ),
    _phrases(  # positive
        "salamat po; ang galing; saludo ako; mabuhay; nakaka-proud; maayo kaayo; nindot kaayo; daghang salamat; congrats; well "
        "done; so proud; great job; thank you; God bless; sulit ang boto; maaasahan; masipag talaga; very inspiring; ang ganda; "
        "best decision; malaking tulong; hinaot magpadayon"
    ),
)

POLARIZATION: tuple[tuple[str, ...], ...] = (
    _phrases(  # non_polarized
        "ingat po tayo; good morning; maulan na naman; kumain na ba kayo; amping mong tanan; sana all; pa-shout out; kasama ang "
        "pamilya; labhan ko muna; my kids love it; weekend na; pauwi na ako; sakay na lang ng tricycle; mainit dito; happy "
        "fiesta; kape muna; layo ra gyud; praying for everyone; miss ko na dyan; nice photo"
    ),
    _phrases(  # objective
        "ayon sa ulat; batay sa datos; sumala sa report; according to the records; the budget is 3.2 billion; Section 5 of the "
        "ordinance; both sides have a point; tingnan natin ang resibo; check the source; kumpara noong nakaraang taon; on the "
        "other hand; the numbers show; may audit report; ikumpara ang dalawa; 30 percent"
    ),
    _phrases(  # partisan
        "solid {x}; bayaran ang mga kritiko; {x} lang malakas; mga alipores ni {x}; iba ang {x} namin; basta {x} kami; kulto "
        "kayo; trolls na naman; kampo ni {x}; mga Bagwis talaga; Team Bagwis forever; ibagsak ang Lakambini; Lakambini pa rin; "
        "never again kay {x}; {x} for governor; bulag na tagasunod; kay {x} ta; mga bias na media; wake up people; {x} all the "
        "way"
    ),
)

SHARED: dict[tuple[int, int], tuple[str, ...]] = {
    (0, 2): _phrases("bayaran; magnanakaw si {x}; sinungaling si {x}; kawatan ang Lakambini; shame on {x}"),
    (2, 2): _phrases("mahal namin si {x}; idol ko si {x}; {x} is the best; proud Bagwis here"),
    (1, 0): _phrases("hello po; present; good evening po; naghihintay lang"),
    (1, 1): _phrases("ito ang link ng ulat; see page 4; ang tanong ay kung magkano"),
    (0, 1): _phrases("mali ang kuwenta; the report contradicts this; kulang ang dokumento"),
    (2, 0): _phrases("happy birthday; ang saya ng mga bata; nakakatuwa naman"),
}
"""Words that speak of two labels at once, by (sentiment, polarization)."""

NEGATIONS = _phrases("hindi; dili; not; di naman; wala man")
NEGATABLE = _phrases("maganda; maayo; great; masipag; helpful; palpak; sayang; bad; pabaya; maot")
"""The first half is positive, the second negative; behind a negation they say the opposite."""

FILLER = _phrases(
    "ang; mga; sa; ng; na; lang; naman; talaga; kasi; pero; para; dito; diyan; kami; tayo; sila; nila; namin; natin; ngayon; "
    "bukas; kahapon; araw; gabi; taon; buwan; bahay; kalsada; palengke; tulay; eskwela; ospital; tubig; ilaw; bigas; gulay; isda; "
    "bata; nanay; tatay; lola; kapitbahay; barangay; plaza; simbahan; opisina; sakyan; trabaho; sahod; pila; tao; tanan; gyud; "
    "kaayo; unta; kay; mao; bitaw; wala; naa; diri; didto; karon; ugma; balay; dalan; merkado; eskwelahan; the; and; for; with; "
    "people; really; maybe; again; today; tomorrow; road; market; school; hospital; water; light; money; job; line; town; city; "
    "news; post; page; video; story; place; time; work; still; just; even; also; because; about; after; before; here; there; "
    "everyone; somebody; yata; raw; daw; nga; eh; ha; kuya; ate; bes; mare; pre; guys; huy; ay; oo; hala"
)

EMOJI = (
    ("😡", "🤮", "👎", "💩", "😤"),
    ("🤔", "👀", "📌", "🙋"),
    ("\u2764\ufe0f", "👏", "🙏", "🎉", "💪"),
    ("😂", "🤣", "🇵🇭", "✨"),
)
"""Emoji that lean negative, neutral, positive, and the ones that anyone uses."""

#!/usr/bin/env bash
# The README's pictures: the top of a run's report, light and dark, by a headless Chromium (Debian: apt-get install chromium).
# Only for runs on the synthetic sample corpus.  Usage: jobs/pictures.sh RUN
set -euo pipefail

page=$(realpath "$1")/report.html
out=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/pictures
grep -q "SYNTHETIC SAMPLE CORPUS" "$page" || { echo "$page: not of the sample corpus; pictures of real comments stay out" >&2; exit 1; }
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
mkdir -p "$out"
for look in light dark; do
    dark=$([ "$look" = dark ] && echo --force-dark-mode || true)
    # shellcheck disable=SC2086  # no flag at all where it is light
    chromium --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync --hide-scrollbars $dark \
        --user-data-dir="$profile" --window-size=1000,520 --screenshot="$out/report-$look.png" "file://$page" 2>/dev/null
done

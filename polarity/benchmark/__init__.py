"""Speed beside peers and the machine's own limit: always several repeats, interleaved, as ratios with their spread."""

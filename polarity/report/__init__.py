"""What people read of a run or a study: pages and cards, made from artifacts only."""

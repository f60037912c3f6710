"""The data room: read, check, split, tokenize, oversample, and the ledger. Arrow tables and Ray Data."""

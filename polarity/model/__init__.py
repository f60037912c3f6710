"""The model: encoder, pooling, heads, the multi-task model that composes them, and inference."""

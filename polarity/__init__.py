"""polarity: fine-tune a multilingual encoder on political comments, and find out which techniques earn their place."""

__version__ = "0.1.0"

"""Adapters in the format of PEFT (Hugging Face), out and in, and models merged into timm's weights.

No other package knows the names that PEFT and transformers use.
"""

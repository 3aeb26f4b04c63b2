"""Adapters in the format of PEFT (Hugging Face), out and in. Only this package knows PEFT's and transformers' names."""

"""From raw inputs to what a network sees: texts to tokens, normalisation, augmentation, views."""

"""What small frozen models report about a clip: things, scenes, text on screen, sounds and words, with their times."""

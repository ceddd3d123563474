"""How the built-in model was made and what was proved with it. Not in the wheel; no other room imports it."""

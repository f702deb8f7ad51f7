"""What the script of each client is told, and what it prints: one line of JSON with what the client saw.

A script is called with the scene, the base URL without a path, and the model. It offers a function for each scene that its
client can play. A boot that takes long or fails is met by the function of another scene: the first, of a program that does but
one thing.
"""

import json
import struct
import sys
import zlib

SCENE, BASE, MODEL = sys.argv[1:4]
PROMPT = "What is the weather in Paris?"
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
PLAYED_BY = {
    "patient": "stream",
    "patient_responses": "responses_stream",
    "failing": "chat",
    "failing_stream": "stream",
}


def image() -> bytes:
    """A PNG of 64 by 64 pixels that compresses badly, so that the backend can tell by its length that it arrived."""
    pixels, state = bytearray(), 1
    for _ in range(64):
        pixels.append(0)
        for _ in range(64 * 3):
            state = state * 1103515245 + 12345 & 0x7FFFFFFF
            pixels.append(state >> 16 & 0xFF)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(pixels))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def run(*scenes) -> None:
    """Plays the scene, and prints what its function returns or raises."""
    known = {scene.__name__: scene for scene in scenes}
    try:
        scene = known.get(PLAYED_BY[SCENE], scenes[0]) if SCENE in PLAYED_BY else known[SCENE]
        seen = scene()
    except Exception as error:
        seen = {"error": f"{type(error).__module__}.{type(error).__qualname__}", "message": str(error)}
    print("\nSEEN " + json.dumps(seen))

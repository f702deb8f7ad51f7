"""The same server as `python3 -m llama_cpp.server`, but one that listens before its model is there, as those do that fetch or load
it behind an open port. Until then it answers whatever it is asked with 503.

usage: late_server.py --model FILE.gguf --model_alias NAME --port PORT
"""

import argparse
import json
import os
import threading
import time

import uvicorn
from llama_cpp.server.app import create_app
from llama_cpp.server.settings import ModelSettings, ServerSettings

LOOK_EVERY_S = 0.05
LOADING = json.dumps({"error": {"code": 503, "message": "the model is not there yet", "type": "unavailable_error"}}).encode()


class Late:
    """Whatever `load` makes, once it is made."""

    def __init__(self, load):
        self.inner = None
        threading.Thread(target=self.wait, args=(load,), daemon=True).start()

    def wait(self, load):
        self.inner = load()

    async def __call__(self, scope, receive, send):
        if self.inner is not None:
            await self.inner(scope, receive, send)
            return
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(LOADING)).encode())]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": LOADING})


def main():
    parser = argparse.ArgumentParser()
    for name in ("--model", "--model_alias", "--port"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()

    def load():
        while not os.path.exists(options.model):
            time.sleep(LOOK_EVERY_S)
        model = ModelSettings(model=options.model, model_alias=options.model_alias, n_threads=1)
        return create_app(server_settings=ServerSettings(interrupt_requests=False), model_settings=[model])

    uvicorn.run(Late(load), host="127.0.0.1", port=int(options.port), lifespan="off")


main()

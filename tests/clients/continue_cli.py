import os
import subprocess
from pathlib import Path

from scene import BASE, MODEL, PROMPT, run


def stream():
    folder = Path.cwd() / f"continue-{MODEL}"
    folder.mkdir()
    config = folder / "config.yaml"
    config.write_text(
        "name: Reveille\nversion: 1.0.0\nschema: v1\nmodels:\n"
        f"  - name: Qwen\n    provider: openai\n    model: {MODEL}\n    apiBase: {BASE}/v1\n    apiKey: unused\n"
        ""
    )
    env = {**os.environ, "HOME": str(folder), "CONTINUE_TELEMETRY_ENABLED": "0", "CONTINUE_CLI_AUTO_UPDATED": "1"}
    command = ["cn", "--config", str(config), "--print", PROMPT]
    done = subprocess.run(
        command, env=env, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200
    )
    if done.returncode:
        return {"error": f"exit code {done.returncode}", "message": done.stdout + done.stderr}
    return {"text": done.stdout.strip()}


run(stream)

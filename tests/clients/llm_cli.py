import ast
import os
import re
import subprocess
import sys
from pathlib import Path

from scene import BASE, MODEL, PROMPT, image, run

# Its folder of settings, and the plugin that the program loads for its tool.
HOME = Path.cwd() / f"llm-{MODEL}"
HOME.mkdir()
(HOME / "extra-openai-models.yaml").write_text(
    f"- model_id: {MODEL}\n  model_name: {MODEL}\n  api_base: {BASE}/v1\n  vision: true\n  supports_tools: true\n"
)


def llm(*words):
    command = [sys.executable, "-m", "llm", "prompt", "-m", MODEL, "--key", "unused", "-u", *words, PROMPT]
    done = subprocess.run(command, env={**os.environ, "LLM_USER_PATH": str(HOME)}, capture_output=True, text=True)
    if done.returncode:
        return {"error": f"exit code {done.returncode}", "message": done.stderr}
    usage = re.search(r"([\d,]+) output", done.stderr)
    return {"text": done.stdout.strip(), "usage": int(usage[1])}


def chat():
    return llm("--no-stream")


def stream():
    return llm()


def tools():
    # It would call the tool and ask again, for as long as the answer is a call.
    tool = "def weather(city: str) -> str:\n    return city"
    done = llm("--no-stream", "--functions", tool, "--tools-debug", "--chain-limit", "2")
    call = re.search(r"Tool call: (\w+)\((.*)\)", done["message"])
    return {"tool": call[1], "arguments": ast.literal_eval(call[2])} if call else done


def vision():
    file = HOME / "image.png"
    file.write_bytes(image())
    return llm("--no-stream", "--attachment", str(file))


run(chat, stream, tools, vision)

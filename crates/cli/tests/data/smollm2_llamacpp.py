"""Golden continuations of the default model, as llama.cpp's llama-server produces them.

    llama-server -m SmolLM2-135M-Instruct.Q4_1.gguf --port 18431 -c 4096 -np 1
    python3 smollm2_llamacpp.py 18431 smollm2_llamacpp.json "llama.cpp BUILD"

Reads the prompts' names and texts from the file and replaces everything else in it: the ids of the
prompt, the greedy output, and for each output position by how much the chosen token's log-probability
exceeded the runner-up's (null where the server does not say: inside a character of several tokens).
"""

import json
import sys
import urllib.request

OUTPUT_LEN = 64


def post(port, path, body):
    data = json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def continued(port, text):
    prompt = post(port, "/tokenize", {"content": text, "parse_special": False, "add_special": True})
    answer = post(port, "/completion", {
        "prompt": prompt["tokens"],
        "n_predict": OUTPUT_LEN,
        "temperature": 0,
        "top_k": 1,
        "n_probs": 2,
        "ignore_eos": False,
        "cache_prompt": False,
        "return_tokens": True,
    })
    gaps = [None] * len(answer["tokens"])
    position = 0
    for entry in answer["completion_probabilities"]:
        first, second = entry["top_logprobs"]
        assert first["id"] == entry["id"]
        position = answer["tokens"].index(entry["id"], position)
        gaps[position] = round(first["logprob"] - second["logprob"], 4)
        position += 1
    return {"prompt_ids": prompt["tokens"], "output_ids": answer["tokens"], "gaps": gaps}


def main(port, path, made_by):
    with open(path) as file:
        golden = json.load(file)
    golden["made_by"] = made_by
    for case in golden["cases"]:
        case.update(continued(port, case["text"]))
        print(case["name"], len(case["prompt_ids"]), len(case["output_ids"]), file=sys.stderr)
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in golden["cases"])
    with open(path, "w") as file:
        file.write(f'{{"model": {json.dumps(golden["model"])}, ')
        file.write(f'"made_by": {json.dumps(golden["made_by"])}, "cases": [\n{lines}\n]}}\n')


main(int(sys.argv[1]), sys.argv[2], sys.argv[3])

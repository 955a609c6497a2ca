"""Speed of OpenVINO GenAI on a GGUF file, as one line of JSON.

Usage: openvino_speed.py MODEL THREADS PROMPT_TOKENS OUTPUT_TOKENS

One run of each test goes uncounted. Every prompt is new: the pipeline caches prefixes.
"""

import json
import random
import sys
import time

import numpy
import openvino
import openvino_genai

# Ids that every vocabulary of a tested model has, and none of its control tokens.
FIRST, LAST = 1000, 40000


def main():
    model, threads, prompt_len, output_len = sys.argv[1], *map(int, sys.argv[2:])
    pipe = openvino_genai.LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=threads)
    numbers = random.Random(time.time_ns())

    def generate(length, new_tokens):
        ids = [[numbers.randrange(FIRST, LAST) for _ in range(length)]]
        ids = openvino.Tensor(numpy.array(ids, dtype=numpy.int64))
        mask = openvino.Tensor(numpy.ones((1, length), dtype=numpy.int64))
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = new_tokens
        config.ignore_eos = True
        config.do_sample = False
        inputs = openvino_genai.TokenizedInputs(ids, mask)
        begin = time.perf_counter()
        result = pipe.generate(inputs, config)
        return time.perf_counter() - begin, result

    def prefill():
        seconds, _ = generate(prompt_len, 1)
        return prompt_len / seconds

    def decode():
        _, result = generate(1, output_len)
        assert len(result.tokens[0]) == output_len, "it ended early"
        return 1000.0 / result.perf_metrics.get_tpot().mean

    speeds = {}
    for name, test in (("prefill", prefill), ("decode", decode)):
        test()
        speeds[name] = test()
    print(json.dumps(speeds))


main()

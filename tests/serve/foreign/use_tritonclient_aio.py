"""tritonclient's asyncio client: unary, a stream, and a stream that is cancelled. ADDRESS MODEL"""

import asyncio
import json
import sys

import numpy as np
import tritonclient.grpc.aio as grpcclient
from tritonclient.utils import InferenceServerException

ADDRESS, MODEL = sys.argv[1:]


def inputs(**given):
    made = []
    for name, value in given.items():
        flag = isinstance(value, bool)
        made.append(grpcclient.InferInput(name, [1], "BOOL" if flag else "BYTES"))
        made[-1].set_data_from_numpy(
            np.array([value]) if flag else np.array([value.encode()], dtype=np.object_)
        )
    return made


def asked(tokens):
    sampling = json.dumps({"temperature": 0, "max_tokens": tokens, "ignore_eos": True})
    return inputs(text_input="Once upon a time", sampling_parameters=sampling, exclude_input_in_output=True)


async def requests(tokens):
    yield {
        "model_name": MODEL,
        "inputs": [*asked(tokens), *inputs(stream=True)],
        "request_id": "s",
        "enable_empty_final_response": True,
    }
    yield {"model_name": MODEL, "inputs": inputs(stream=True), "request_id": "bad"}


async def main():
    async with grpcclient.InferenceServerClient(ADDRESS) as client:
        seen = {"ready": await client.is_model_ready(MODEL)}
        seen["infer"] = (await client.infer(MODEL, asked(12))).as_numpy("text_output")[0].decode()
        text, errors = "", []
        async for result, error in client.stream_infer(requests(12)):
            if error is not None:
                errors.append(str(error))
            else:
                text += result.as_numpy("text_output")[0].decode()
        seen["stream"], seen["stream_errors"] = text, errors
        responses = client.stream_infer(requests(400))
        await anext(responses)
        seen["cancelled"] = responses.cancel()
        try:
            await client.infer("nobody", asked(1))
        except InferenceServerException as error:
            seen["unknown_model"] = [error.status(), error.message()]
        print(json.dumps(seen))


asyncio.run(main())

"""KServe's InferenceGRPCClient, with typed contents and with raw bytes. ADDRESS MODEL"""

import asyncio
import json
import logging
import sys

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as pb_grpc

ADDRESS, MODEL = sys.argv[1:]
logging.disable()  # it logs every error with its traceback


def request(model, raw):
    own = np.array([True])
    if raw:
        text = InferInput("text_input", [1], "BYTES")
        text.set_data_from_numpy(np.array([b"Once upon a time"], dtype=np.object_))
        exclude = InferInput("exclude_input_in_output", [1], "BOOL")
        exclude.set_data_from_numpy(own)
    else:
        text = InferInput("text_input", [1], "BYTES", data=["Once upon a time"])
        exclude = InferInput("exclude_input_in_output", [1], "BOOL", data=[True])
    parameters = {"temperature": "0", "max_tokens": 12, "ignore_eos": True}
    return InferRequest(model, [text, exclude], parameters=parameters)


def text_of(response):
    (output,) = response.outputs
    first = output.as_numpy()[0] if not isinstance(output.data, list) or output._raw_data else output.data[0]
    return first.decode() if isinstance(first, bytes) else first


async def code_of(call):
    try:
        await call
    except grpc.RpcError as error:
        return [error.code().name, error.details()]


async def main():
    async with InferenceGRPCClient(ADDRESS) as client:
        seen = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready(MODEL),
            "typed": text_of(await client.infer(request(MODEL, raw=False))),
            "raw": text_of(await client.infer(request(MODEL, raw=True))),
            "unknown_ready": await code_of(client.is_model_ready("nobody")),
            "unknown_infer": await code_of(client.infer(request("nobody", raw=False))),
        }
    async with grpc.aio.insecure_channel(ADDRESS) as channel:
        load = pb_grpc.GRPCInferenceServiceStub(channel).RepositoryModelLoad
        loaded = await load(pb.RepositoryModelLoadRequest(model_name=MODEL))
        seen["loaded"] = [loaded.model_name, loaded.isLoaded]
        seen["unknown_load"] = await code_of(load(pb.RepositoryModelLoadRequest(model_name="nobody")))
    print(json.dumps(seen))


asyncio.run(main())

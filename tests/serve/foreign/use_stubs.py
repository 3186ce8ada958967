"""Our stubs on protobuf 6, and our package ``inference`` beside a client of that name."""

import importlib
import json
import sys

import google.protobuf
import grpc

from secateur.v1 import inference_pb2, inference_pb2_grpc, models_pb2, models_pb2_grpc

ADDRESS, MODEL, CLIENT = sys.argv[1:]
importlib.import_module(CLIENT)
from secateur.serve.protocols.open_inference import wire  # noqa: E402

with grpc.insecure_channel(ADDRESS) as channel:
    request = inference_pb2.GenerateRequest(model=MODEL, text="Once upon a time")
    request.sampling.temperature = 0
    request.sampling.max_tokens = 12
    request.sampling.ignore_eos = True
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    responses = list(stub.StreamGenerate(request, timeout=60))
    models = models_pb2_grpc.ModelServiceStub(channel).ListModels(models_pb2.ListModelsRequest(), timeout=60)
print(
    json.dumps(
        {
            "protobuf": google.protobuf.__version__,
            "text": "".join(response.text_delta for response in responses),
            "models": [model.name for model in models.models],
            "wire": wire.ServerLiveResponse(live=True).live,
        }
    )
)

"""Everything tritonclient's synchronous client can ask; prints what it got as JSON. ADDRESS MODEL"""

import json
import queue
import sys

import numpy as np
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

ADDRESS, MODEL = sys.argv[1:]
SAMPLING = {"temperature": 0, "max_tokens": "12", "ignore_eos": True}


def tensor(name, value):
    kind, array = (
        ("BOOL", np.array([value]))
        if isinstance(value, bool)
        else ("BYTES", np.array([value.encode()], dtype=np.object_))
    )
    made = grpcclient.InferInput(name, [1], kind)
    made.set_data_from_numpy(array)
    return made


def inputs(text="Once upon a time", sampling=SAMPLING, **flags):
    given = {"text_input": text, "sampling_parameters": json.dumps(sampling), **flags}
    return [tensor(name, value) for name, value in given.items()]


def text(result):
    return result.as_numpy("text_output")[0].decode()


def error_of(call, *arguments, **keywords):
    try:
        call(*arguments, **keywords)
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return None


client = grpcclient.InferenceServerClient(ADDRESS)
seen = {
    "live": client.is_server_live(),
    "ready": client.is_server_ready(),
    "model_ready": client.is_model_ready(MODEL),
    "server": client.get_server_metadata(as_json=True),
    "metadata": client.get_model_metadata(MODEL, as_json=True),
    "config": client.get_model_config(MODEL, as_json=True)["config"],
    "index": client.get_model_repository_index(as_json=True),
}

result = client.infer(
    MODEL,
    inputs(exclude_input_in_output=True, return_finish_reason=True, return_cumulative_logprob=True),
    request_id="one",
    outputs=[
        grpcclient.InferRequestedOutput(name)
        for name in ("text_output", "finish_reason", "cumulative_logprob", "num_output_tokens")
    ],
)
seen["infer"] = {
    "text": text(result),
    "id": result.get_response().id,
    "version": result.get_response().model_version,
    "finish_reason": result.as_numpy("finish_reason")[0].decode(),
    "cumulative_logprob": float(result.as_numpy("cumulative_logprob")[0]),
    "num_output_tokens": int(result.as_numpy("num_output_tokens")[0]),
}
done = queue.Queue()
client.async_infer(
    MODEL, inputs(exclude_input_in_output=True), lambda result, error: done.put((result, error))
)
seen["async_infer"] = text(done.get(timeout=60)[0])
seen["parameters"] = text(
    client.infer(
        MODEL,
        [tensor("text_input", "Once upon a time"), tensor("exclude_input_in_output", True)],
        parameters=SAMPLING,
        priority=1,
        timeout=60_000_000,
    )
)

got = queue.Queue()
client.start_stream(lambda result, error: got.put((result, error)))
for name in ("a", "b"):
    client.async_stream_infer(MODEL, inputs(stream=True), request_id=name, enable_empty_final_response=True)
client.async_stream_infer(MODEL, inputs(sampling={"top_p": 7}, stream=True), request_id="bad")
texts, finals, errors = {"a": "", "b": ""}, [], []
while len(finals) < 2 or not errors:
    result, error = got.get(timeout=60)
    if error is not None:
        errors.append(str(error))
        continue
    response = result.get_response()
    texts[response.id] += text(result)
    if response.parameters["triton_final_response"].bool_param:
        finals.append(response.id)
client.async_stream_infer(MODEL, inputs(), request_id="whole")  # the stream has survived the error
seen["stream"] = {"texts": texts, "errors": errors, "whole": text(got.get(timeout=60)[0])}
client.stop_stream()

client.start_stream(lambda result, error: got.put((result, error)))
client.async_stream_infer(
    MODEL, inputs(sampling=SAMPLING | {"max_tokens": 400}, stream=True), request_id="long"
)
got.get(timeout=60)
client.stop_stream(cancel_requests=True)
while (last := got.get(timeout=60))[1] is None:
    pass
seen["cancelled"] = last[1].status()

seen["errors"] = {
    "unknown_model": error_of(client.infer, "nobody", inputs()),
    "no_text": error_of(client.infer, MODEL, inputs()[1:]),
    "shared_memory": error_of(client.get_system_shared_memory_status),
    "deadline": error_of(
        client.infer, MODEL, inputs(sampling=SAMPLING | {"max_tokens": 400}), client_timeout=0.05
    ),
}
stats = client.get_inference_statistics(MODEL, as_json=True)["model_stats"][0]
seen["statistics"] = {name: int(stats["inference_stats"][name]["count"]) for name in ("success", "fail")}
print(json.dumps(seen))

// @grpc/grpc-js, which shares no code with grpcio: streams, cancels, expires. ADDRESS MODEL PROTO_FOLDER
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, model, protos] = process.argv.slice(2);
const options = { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true };
const load = (file, folder) =>
  grpc.loadPackageDefinition(loader.loadSync(file, { ...options, includeDirs: [folder] }));
const ours = load("secateur/v1/inference.proto", protos).secateur.v1;
const triton = load("grpc_service.proto", `${protos}/inference`).inference;
const client = new ours.InferenceService(address, grpc.credentials.createInsecure());
const open = new triton.GRPCInferenceService(address, grpc.credentials.createInsecure());

const sampling = (tokens) => ({ temperature: 0, max_tokens: tokens, ignore_eos: true });
const asked = (tokens) => ({ model, text: "Once upon a time", sampling: sampling(tokens) });

// Resolves to what came: messages until the end or an error; `each` is called with every message.
const collect = (call, each = () => {}) =>
  new Promise((resolve) => {
    const messages = [];
    let code = null;
    call.on("data", (message) => { messages.push(message); each(message); });
    call.on("error", (error) => { code = grpc.status[error.code]; });
    call.on("status", (status) => resolve({ messages, code: code ?? grpc.status[status.code], status }));
  });

async function main() {
  const seen = {};
  const whole = await collect(client.StreamGenerate(asked(12)));
  seen.stream = whole.messages.map((message) => message.text_delta).join("");
  seen.finish_reason = whole.messages.at(-1).finish_reason;

  const call = client.StreamGenerate(asked(400));
  seen.cancelled = (await collect(call, () => call.cancel())).code;

  const deadline = new Date(Date.now() + 150);
  seen.deadline = (await collect(client.StreamGenerate(asked(400), { deadline }))).code;

  const bad = await collect(client.StreamGenerate({ ...asked(12), model: "nobody" }));
  seen.unknown_model = bad.code;
  seen.details = bad.status.metadata.get("grpc-status-details-bin").length;

  const conversation = open.ModelStreamInfer();
  const bytes = (name, text) => ({
    name, datatype: "BYTES", shape: [1], contents: { bytes_contents: [Buffer.from(text)] },
  });
  conversation.write({
    model_name: model,
    inputs: [
      bytes("text_input", "Once upon a time"),
      bytes("sampling_parameters", JSON.stringify(sampling(12))),
      { name: "stream", datatype: "BOOL", shape: [1], contents: { bool_contents: [true] } },
    ],
  });
  conversation.end();
  seen.open_inference = (await collect(conversation)).messages
    .map(({ infer_response }) => infer_response.outputs[0].contents.bytes_contents[0].toString())
    .join("");
  console.log(JSON.stringify(seen));
}

main().catch((error) => { console.error(error); process.exit(1); });

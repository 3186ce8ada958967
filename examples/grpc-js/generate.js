// Print an answer as it comes. Usage: node generate.js [PROMPT [ADDRESS]]

const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [prompt = "Once upon a time", address = "127.0.0.1:50051"] = process.argv.slice(2);

const proto = path.join(__dirname, "../../proto");
// defaults: an empty text_delta is "", not undefined.
const options = { includeDirs: [proto], longs: Number, defaults: true };
const definition = loader.loadSync("secateur/v1/inference.proto", options);
const { InferenceService } = grpc.loadPackageDefinition(definition).secateur.v1;

const client = new InferenceService(address, grpc.credentials.createInsecure());
const request = { text: prompt, sampling: { maxTokens: 32, temperature: 0.7, seed: 1 } };
const call = client.StreamGenerate(request, { deadline: Date.now() + 60_000 });

call.on("data", (message) => process.stdout.write(message.textDelta));
call.on("end", () => process.stdout.write("\n"));
call.on("error", (error) => {
  if (error.code === grpc.status.CANCELLED) return;
  console.error(`${grpc.status[error.code]}: ${error.details}`);
  process.exitCode = 1;
});
process.on("SIGINT", () => call.cancel()); // the server frees its memory at once

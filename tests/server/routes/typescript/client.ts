// Asks every endpoint by the types of schema.d.ts, and prints the paths that answered.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.d.ts";

const image = process.env.EXAMPLE_IMAGE!;
const client = createClient<paths>({ baseUrl: process.env.OPENSET_URL! });
const answered: string[] = [];

function take<T>(path: keyof paths, result: { data?: T; error?: unknown }): T {
  if (result.data === undefined) throw new Error(`${path}: ${JSON.stringify(result.error)}`);
  answered.push(path);
  return result.data;
}

const detected = take("/detect", await client.POST("/detect", { body: { image, labels: ["a dog"] } }));
const label: string = detected.results[0].detections[0].label;
if (label !== "a dog") throw new Error(label);

const form = new FormData();
form.append("image", new Blob([Buffer.from(image, "base64")], { type: "image/png" }), "a.png");
form.append("labels", "a dog,a cat");
const body = form as unknown as components["schemas"]["DetectForm"];
const listed = await client.POST("/detect", { body, bodySerializer: (given) => given as unknown as FormData });
if (listed.data?.results[0].labels.length !== 2) throw new Error(JSON.stringify(listed.error));

const scores = take("/classify", await client.POST("/classify", { body: { image, labels: ["r", "g"] } }));
const score: number = scores.results[0].scores[0].score;
const cosines = take("/similarity", await client.POST("/similarity", { body: { image, texts: ["r"] } }));
const cosine: number = cosines.similarity[0][0] + score;
const vectors = take("/embed", await client.POST("/embed", { body: { texts: ["r"] } }));
if (!(vectors.texts[0].length > 0 && cosine > 0)) throw new Error("no numbers");

const pause = () => new Promise((resolve) => setTimeout(resolve, 50));
for (const [path, submit] of [
  ["/jobs/detect", () => client.POST("/jobs/detect", { body: { image, labels: ["a dog"] } })],
  ["/jobs/classify", () => client.POST("/jobs/classify", { body: { image, labels: ["r", "g"] } })],
  ["/jobs/similarity", () => client.POST("/jobs/similarity", { body: { image, texts: ["r"] } })],
  ["/jobs/embed", () => client.POST("/jobs/embed", { body: { texts: ["r"] } })],
] as const) {
  const job = take(path, await submit());
  const params = { path: { id: job.id } };
  while (take("/jobs/{id}", await client.GET("/jobs/{id}", { params })).state !== "succeeded") await pause();
  const whole = take("/jobs/{id}/result", await client.GET("/jobs/{id}/result", { params }));
  if (path === "/jobs/detect" && "results" in whole && !whole.results.length) throw new Error("no result");
  if ((await client.DELETE("/jobs/{id}", { params })).error) throw new Error(job.id);
}
if (take("/jobs", await client.GET("/jobs")).jobs.length) throw new Error("jobs are left");

take("/models", await client.GET("/models"));
take("/livez", await client.GET("/livez"));
take("/readyz", await client.GET("/readyz"));
take("/metrics", await client.GET("/metrics", { parseAs: "text" }));
take("/v2", await client.GET("/v2"));
take("/v2/health/live", await client.GET("/v2/health/live"));
take("/v2/health/ready", await client.GET("/v2/health/ready"));

const params = { path: { name: "fake-detector" } };
const version = { path: { name: "fake-detector", version: "1" } };
const tensor = { datatype: "BYTES", shape: [1] };
const inference = { inputs: [{ ...tensor, name: "image", data: [image] }, { ...tensor, name: "labels", data: ["a dog"] }] };
take("/models/{name}/card", await client.GET("/models/{name}/card", { params, parseAs: "text" }));
take("/v2/models/{name}", await client.GET("/v2/models/{name}", { params }));
take("/v2/models/{name}/ready", await client.GET("/v2/models/{name}/ready", { params }));
take("/v2/models/{name}/infer", await client.POST("/v2/models/{name}/infer", { params, body: inference }));
const versions = "/v2/models/{name}/versions/{version}";
take(versions, await client.GET(versions, { params: version }));
take(`${versions}/ready`, await client.GET(`${versions}/ready`, { params: version }));
take(`${versions}/infer`, await client.POST(`${versions}/infer`, { params: version, body: inference }));

console.log(answered.join("\n"));

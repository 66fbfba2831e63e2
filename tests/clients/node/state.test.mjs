// The official JavaScript SDK on what the server keeps: responses, conversations, completions; and several calls.

import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI from "openai";

const demo = new OpenAI({ apiKey: "not-needed", maxRetries: 0, timeout: 120_000, baseURL: process.env.DEMO_URL });
const model = "ossia-demo";
const question = [{ role: "user", content: "What is 17 + 25?" }];

async function collected(pages) {
  const items = [];
  for await (const item of pages) items.push(item);
  return items;
}

test("a response is read, its stream taken up again, and deleted", async () => {
  const made = await demo.responses.create({ model, input: "What is 17 + 25?", temperature: 0 });
  assert.deepEqual((await demo.responses.retrieve(made.id)).output, made.output);
  const [item] = await collected(demo.responses.inputItems.list(made.id));
  assert.equal(item.content[0].text, "What is 17 + 25?");
  const events = await collected(await demo.responses.retrieve(made.id, { stream: true, starting_after: 3 }));
  assert.equal(events[0].sequence_number, 4);
  assert.equal(events.at(-1).type, "response.completed");
  await demo.responses.delete(made.id);
  await assert.rejects(demo.responses.retrieve(made.id), OpenAI.NotFoundError);
});

test("a response in the background ends without its client", async () => {
  let response = await demo.responses.create({ model, input: "What is 17 + 25?", temperature: 0, background: true });
  while (["queued", "in_progress"].includes(response.status)) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    response = await demo.responses.retrieve(response.id);
  }
  assert.match(response.output_text, /42/);
  await assert.rejects(demo.responses.cancel("resp_none"), OpenAI.NotFoundError);
});

test("input is counted and compacted", async () => {
  const counted = await demo.responses.inputTokens.count({ model, input: "What is 17 + 25?" });
  const answered = await demo.responses.create({ model, input: "What is 17 + 25?", temperature: 0 });
  assert.equal(counted.input_tokens, answered.usage.input_tokens);
  const compacted = await demo.responses.compact({ model, previous_response_id: answered.id });
  assert.ok(compacted.output.some((item) => item.type === "compaction"));
});

test("a conversation and its items", async () => {
  const { id } = await demo.conversations.create({ metadata: { topic: "sums" } });
  const [added] = (await demo.conversations.items.create(id, { items: [{ role: "user", content: "Hello." }] })).data;
  await demo.responses.create({ model, input: "What is 17 + 25?", conversation: id, temperature: 0 });
  const items = await collected(demo.conversations.items.list(id, { order: "asc" }));
  assert.deepEqual(items.map((item) => item.type), ["message", "message", "reasoning", "message"]);
  assert.equal((await demo.conversations.items.retrieve(added.id, { conversation_id: id })).id, added.id);
  await demo.conversations.items.delete(added.id, { conversation_id: id });
  await demo.conversations.update(id, { metadata: { topic: "more" } });
  assert.deepEqual((await demo.conversations.retrieve(id)).metadata, { topic: "more" });
  await demo.conversations.delete(id);
  await assert.rejects(demo.conversations.retrieve(id), OpenAI.NotFoundError);
});

test("a stored completion", async () => {
  const request = { model, messages: question, store: true, metadata: { run: "node" }, temperature: 0 };
  const { id } = await demo.chat.completions.create(request);
  const listed = await collected(demo.chat.completions.list({ metadata: { run: "node" } }));
  assert.deepEqual(listed.map((completion) => completion.id), [id]);
  const [message] = await collected(demo.chat.completions.messages.list(id));
  assert.equal(message.content, "What is 17 + 25?");
  await demo.chat.completions.update(id, { metadata: { run: "again" } });
  assert.deepEqual((await demo.chat.completions.retrieve(id)).metadata, { run: "again" });
  assert.ok((await demo.chat.completions.delete(id)).deleted);
});

test("formats hold in both APIs", async () => {
  // Bounded, for a model that was never shown JSON may not know when a number is over.
  const sum = { type: "integer", minimum: 0, maximum: 99 };
  const schema = { type: "object", properties: { sum }, required: ["sum"], additionalProperties: false };
  const format = { name: "answer", strict: true, schema };
  const chat = await demo.chat.completions.parse({
    model, messages: question, temperature: 0, response_format: { type: "json_schema", json_schema: format },
  });
  assert.equal(typeof JSON.parse(chat.choices[0].message.content).sum, "number");
  const response = await demo.responses.parse({
    model, input: "What is 17 + 25?", temperature: 0, text: { format: { type: "json_schema", ...format } },
  });
  assert.equal(typeof JSON.parse(response.output_text).sum, "number");
});

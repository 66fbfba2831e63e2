// The official JavaScript SDK: both APIs, whole and streamed, tools, completions, models, errors.

import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI from "openai";

const options = { apiKey: "not-needed", maxRetries: 0, timeout: 120_000 };
const demo = new OpenAI({ ...options, baseURL: process.env.DEMO_URL });
const scripted = new OpenAI({ ...options, baseURL: process.env.SCRIPTED_URL });
const model = "ossia-demo";
const question = [{ role: "user", content: "What is 17 + 25?" }];
const parameters = {
  type: "object",
  properties: { city: { type: "string", description: "The city" } },
  required: ["city"],
};
const weather = { name: "get_weather", description: "Gets the weather of a city.", parameters };

test("a chat answer has content, reasoning and usage", async () => {
  const answer = await demo.chat.completions.create({ model, messages: question, temperature: 0 });
  const [choice] = answer.choices;
  assert.equal(choice.finish_reason, "stop");
  assert.match(choice.message.content, /42/);
  assert.ok(choice.message.reasoning.length > 0);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
});

test("the SDK folds a chat stream to the whole answer", async () => {
  const request = { model, messages: question, temperature: 0, n: 2, logprobs: true, top_logprobs: 2 };
  const whole = await demo.chat.completions.create(request);
  const stream = demo.chat.completions.stream({ ...request, stream_options: { include_usage: true } });
  const folded = await stream.finalChatCompletion();
  assert.equal(folded.choices.length, 2);
  for (const [index, choice] of folded.choices.entries()) {
    assert.equal(choice.message.content, whole.choices[index].message.content);
    assert.deepEqual(choice.logprobs.content, whole.choices[index].logprobs.content);
  }
  assert.equal(folded.usage.completion_tokens, whole.usage.completion_tokens);
});

for (const stream of [false, true]) {
  test(`a chat tool call and its result, stream: ${stream}`, async () => {
    const messages = [{ role: "user", content: "What is the weather in Paris?" }];
    const request = { model, messages, tools: [{ type: "function", function: weather }], temperature: 0 };
    const first = stream
      ? await demo.chat.completions.stream(request).finalChatCompletion()
      : await demo.chat.completions.create(request);
    const { message, finish_reason } = first.choices[0];
    assert.equal(finish_reason, "tool_calls");
    const [call] = message.tool_calls;
    assert.deepEqual(JSON.parse(call.function.arguments), { city: "Paris" });
    messages.push(message, { role: "tool", tool_call_id: call.id, content: '{"weather":"sunny"}' });
    const second = await demo.chat.completions.create(request);
    assert.match(second.choices[0].message.content, /sunny/);
  });

  test(`a response with reasoning, stream: ${stream}`, async () => {
    const request = { model, input: "What is 17 + 25?", temperature: 0 };
    const response = stream
      ? await demo.responses.stream(request).finalResponse()
      : await demo.responses.create(request);
    assert.equal(response.status, "completed");
    assert.match(response.output_text, /42/);
    assert.deepEqual(response.output.map((item) => item.type), ["reasoning", "message"]);
    assert.ok(response.usage.output_tokens_details.reasoning_tokens > 0);
  });

  test(`a response's tool call and its result by previous_response_id, stream: ${stream}`, async () => {
    const tools = [{ type: "function", strict: false, ...weather }];
    const create = (request) =>
      stream
        ? demo.responses.stream({ model, tools, temperature: 0, ...request }).finalResponse()
        : demo.responses.create({ model, tools, temperature: 0, ...request });
    const first = await create({ input: "What is the weather in Paris?" });
    const call = first.output.find((item) => item.type === "function_call");
    assert.deepEqual(JSON.parse(call.arguments), { city: "Paris" });
    const output = { type: "function_call_output", call_id: call.call_id, output: '{"weather":"sunny"}' };
    const second = await create({ previous_response_id: first.id, input: [output] });
    assert.match(second.output_text, /sunny/);
  });
}

test("the deprecated functions are answered in their own shape", async () => {
  const messages = [{ role: "user", content: "What is the weather in Paris?" }];
  const answer = await demo.chat.completions.create({ model, messages, functions: [weather], temperature: 0 });
  assert.equal(answer.choices[0].finish_reason, "function_call");
  assert.equal(answer.choices[0].message.function_call.name, "get_weather");
});

test("raw text is completed, whole and streamed", async () => {
  const prompt = "<|start|>user<|message|>What is 17 + 25?<|end|><|start|>assistant";
  const request = { model, prompt, temperature: 0, max_tokens: 60, logprobs: 1 };
  const whole = await demo.completions.create(request);
  assert.match(whole.choices[0].text, /17 \+ 25 = /);
  let text = "";
  for await (const piece of await demo.completions.create({ ...request, stream: true })) {
    text += piece.choices[0]?.text ?? "";
  }
  assert.equal(text, whole.choices[0].text);
});

test("models are listed and found", async () => {
  const names = [];
  for await (const { id } of scripted.models.list()) names.push(id);
  assert.deepEqual(names, ["scripted"]);
  assert.equal((await scripted.models.retrieve("scripted")).object, "model");
});

test("faults are the SDK's errors", async () => {
  const unknown = demo.chat.completions.create({ model: "gpt-9", messages: question });
  await assert.rejects(unknown, (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found");
  const hot = demo.responses.create({ model, input: "x", temperature: 9 });
  await assert.rejects(hot, (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature");
});

// The OpenAI Agents SDK for JavaScript over both APIs: tool call, result, answer.

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  Agent,
  OpenAIChatCompletionsModel,
  OpenAIResponsesModel,
  Runner,
  setTracingDisabled,
  tool,
} from "@openai/agents";
import OpenAI from "openai";
import { z } from "zod";

setTracingDisabled(true);
const client = new OpenAI({ apiKey: "not-needed", maxRetries: 0, timeout: 120_000, baseURL: process.env.DEMO_URL });
const models = {
  chat: new OpenAIChatCompletionsModel(client, "ossia-demo"),
  responses: new OpenAIResponsesModel(client, "ossia-demo"),
};

for (const [api, model] of Object.entries(models)) {
  for (const stream of [false, true]) {
    test(`an agent calls a tool and answers, ${api}, stream: ${stream}`, async () => {
      const cities = [];
      const weather = tool({
        name: "get_weather",
        description: "Gets the weather of a city.",
        parameters: z.object({ city: z.string().describe("The city") }),
        execute: async ({ city }) => {
          cities.push(city);
          return '{"weather":"sunny"}';
        },
      });
      const agent = new Agent({ name: "weather", model, tools: [weather], modelSettings: { temperature: 0 } });
      const result = await new Runner().run(agent, "What is the weather in Paris?", { stream });
      if (stream) await result.completed;
      assert.deepEqual(cities, ["Paris"]);
      assert.match(result.finalOutput, /sunny/);
    });
  }
}

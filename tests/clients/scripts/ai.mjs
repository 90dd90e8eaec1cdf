// Makes an image with `generateImage` of the Vercel AI SDK.
import fs from "node:fs";
import { generateImage } from "ai";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { report } from "./report.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;

const models = {
  openai: (baseURL, apiKey, model) => createOpenAI({ baseURL, apiKey }).image(model),
  "openai-compatible": (baseURL, apiKey, model) =>
    createOpenAICompatible({ name: "images", baseURL, apiKey }).imageModel(model),
};

async function run({ url, key, provider, model, prompt, images, options }) {
  const { images: made, warnings, usage, providerMetadata, responses } = await generateImage({
    model: models[provider](`${url}/v1`, key, model),
    prompt: images ? { text: prompt, images: images.map((path) => fs.readFileSync(path)) } : prompt,
    ...options,
  });
  return {
    images: made.map(({ base64, mediaType }) => ({ base64, mediaType })),
    warnings,
    usage,
    providerMetadata,
    calls: responses.length,
  };
}

const describe = ({ statusCode, isRetryable, responseHeaders, data, reason, errors }) => ({
  status: statusCode ?? errors?.at(-1)?.statusCode,
  retryable: isRetryable,
  headers: responseHeaders,
  data,
  reason,
  attempts: errors?.length,
});

await report(run, describe);

import { generate } from '../gemini';

export async function POST(request) {
  const { prompt, aspectRatio = '1:1', imageSize = '2K' } = await request.json();
  return generate(prompt, { aspectRatio, imageSize });
}

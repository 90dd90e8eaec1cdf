import { generate } from '../../gemini';

export async function POST(request) {
  const form = await request.formData();
  const parts = [{ text: form.get('prompt') }];
  for (const file of form.getAll('images')) {
    const data = Buffer.from(await file.arrayBuffer()).toString('base64');
    parts.push({ inlineData: { mimeType: file.type, data } });
  }
  return generate([{ role: 'user', parts }], { aspectRatio: '1:1', imageSize: '2K' });
}

import { GoogleGenAI } from '@google/genai';
import { NextResponse } from 'next/server';

const ai = new GoogleGenAI({
  apiKey: process.env.GEMINI_API_KEY,
  httpOptions: { baseUrl: process.env.GOOGLE_GEMINI_BASE_URL, apiVersion: 'v1beta' },
});

export async function generate(contents, imageConfig) {
  try {
    const response = await ai.models.generateContent({
      model: 'gemini-3-pro-image',
      contents,
      config: { responseModalities: ['TEXT', 'IMAGE'], imageConfig },
    });
    let image = null;
    let text = null;
    for (const part of response.candidates[0].content.parts) {
      if (part.text) text = part.text;
      if (part.inlineData) {
        const { data, mimeType } = part.inlineData;
        image = { data, mimeType, url: `data:${mimeType};base64,${data}` };
      }
    }
    return NextResponse.json({ image, text });
  } catch (error) {
    return NextResponse.json({ error: error.message }, { status: 500 });
  }
}

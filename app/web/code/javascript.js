import { javascript, text } from "./literals.js";
import { fieldsOf, filesOf, labelsOf, notesOf, PLACEHOLDER } from "./request.js";

/** @typedef {import("./request.js").CodeRequest} CodeRequest */

/**
 * Return a module for Node 20 or newer.
 *
 * The references are in JSON: `FormData` changes the line ends of a prompt.
 *
 * @param {CodeRequest} request
 * @returns {string}
 */
export function javascriptCode(request) {
  const files = filesOf(request);
  const members = fieldsOf(request).map(([name, value]) => `    ${name}: ${javascript(value)},`);
  const images = request.references.map((reference, index) => {
    const labels = labelsOf(reference).map(([key, value]) => `, ${key}: ${text(value)}`);
    return `      { data: await readFile(${text(files.references[index])}, "base64")${labels.join("")} },`;
  });
  const lines = [
    ...notesOf(request, "ask for Accept: application/json").map((note) => `// ${note}`),
    `import { ${images.length ? "readFile, " : ""}writeFile } from "node:fs/promises";`,
    "",
    `const response = await fetch(${text(`${request.origin}/generate-image`)}, {`,
    '  method: "POST",',
    "  headers: {",
    '    Accept: "image/*",',
    '    "Content-Type": "application/json",',
    ...(request.keyNeeded ? [`    Authorization: "Bearer ${PLACEHOLDER}",`] : []),
    "  },",
    "  body: JSON.stringify({",
    ...members,
    ...(images.length ? ["    referenceImages: [", ...images, "    ],"] : []),
    "  }),",
    "});",
    "if (!response.ok) throw new Error(await response.text());",
    `await writeFile(${text(files.output)}, Buffer.from(await response.arrayBuffer()));`,
  ];
  return `${lines.join("\n")}\n`;
}

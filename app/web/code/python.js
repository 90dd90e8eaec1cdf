import { python, text } from "./literals.js";
import { fieldsOf, filesOf, labelsOf, notesOf, PLACEHOLDER } from "./request.js";

/** @typedef {import("./request.js").CodeRequest} CodeRequest */

/**
 * Return a program that needs nothing but Python.
 *
 * @param {CodeRequest} request
 * @returns {string}
 */
export function pythonCode(request) {
  const files = filesOf(request);
  const members = fieldsOf(request).map(([name, value]) => `    ${text(name)}: ${python(value)},`);
  const images = request.references.map((reference, index) => {
    const labels = labelsOf(reference).map(([key, value]) => `, ${text(key)}: ${text(value)}`);
    return `        {"data": base64_of(${text(files.references[index])})${labels.join("")}},`;
  });
  const lines = [
    ...notesOf(request, "ask for Accept: application/json").map((note) => `# ${note}`),
    ...(images.length ? ["import base64"] : []),
    "import json",
    "import sys",
    "import urllib.error",
    "import urllib.request",
    "",
    ...(images.length ? READING : []),
    "body = {",
    ...members,
    ...(images.length ? ['    "referenceImages": [', ...images, "    ],"] : []),
    "}",
    "headers = {",
    '    "Accept": "image/*",',
    '    "Content-Type": "application/json",',
    ...(request.keyNeeded ? [`    "Authorization": "Bearer ${PLACEHOLDER}",`] : []),
    "}",
    `url = ${text(`${request.origin}/generate-image`)}`,
    "request = urllib.request.Request(url, json.dumps(body).encode(), headers)",
    "try:",
    "    with urllib.request.urlopen(request) as response:",
    "        image = response.read()",
    "except urllib.error.HTTPError as error:",
    "    sys.exit(error.read().decode())",
    `with open(${text(files.output)}, "wb") as file:`,
    "    file.write(image)",
  ];
  return `${lines.join("\n")}\n`;
}

const READING = [
  "",
  "def base64_of(path):",
  '    with open(path, "rb") as file:',
  "        return base64.b64encode(file.read()).decode()",
  "",
  "",
];

// Runs the job that is written on standard input as JSON, and writes its outcome on standard output as JSON.

export async function report(run, describe) {
  let text = "";
  for await (const chunk of process.stdin) text += chunk;
  let outcome;
  try {
    outcome = { value: await run(JSON.parse(text)) };
  } catch (error) {
    outcome = { error: { name: error.constructor.name, message: error.message, ...describe(error) } };
  }
  process.stdout.write(JSON.stringify(outcome));
}

"""One generation: plan, admit, ask Gemini, deliver."""

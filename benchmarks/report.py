from pathlib import Path
import json
def write(results, out: Path) -> str:
    return json.dumps(results)[:200]

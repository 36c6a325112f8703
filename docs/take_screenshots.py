"""Takes the pictures of docs/report/ from a study's page, with an installed Chromium.

python docs/take_screenshots.py outputs/tbs_sweep/default
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# name -> (width and height in pixels, dark)
WINDOWS = {"light": (1280, 2500, False), "dark": (1280, 2500, True), "phone": (390, 3300, False)}


def main() -> None:
    page = (Path(sys.argv[1]) / "report.html").resolve(strict=True)
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("error: no Chromium on the path")
    for name, (width, height, dark) in WINDOWS.items():
        picture = Path(__file__).parent / "report" / f"{name}.png"
        with tempfile.TemporaryDirectory() as profile:
            command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
            command += ["--hide-scrollbars", f"--user-data-dir={profile}", f"--window-size={width},{height}"]
            command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--screenshot={picture}"]
            subprocess.run([*command, page.as_uri()], check=True, capture_output=True)
        print(picture)


if __name__ == "__main__":
    main()

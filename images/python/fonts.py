"""Prepare matplotlib's fonts while the image is built. Writes the list of them to MPLCONFIGDIR's folder.

The list also answers to names that other systems' fonts bear, so that code which asks for one of them draws
with a font that is here, without a warning and with glyphs for the script it wants.

Any text may use all of the matplotlibrc's ``font.sans-serif`` for glyphs that its own font lacks. By itself
matplotlib takes one font of that list, and of ``font.family`` only what seaborn's themes and other code leave.
"""

from __future__ import annotations

import dataclasses
import importlib
from importlib.util import find_spec
from pathlib import Path

CJK = "WenQuanYi Micro Hei"

ALIASES = {
    "Liberation Sans": ("Arial", "Helvetica", "Helvetica Neue"),
    "Liberation Serif": ("Times New Roman", "Times"),
    "Liberation Mono": ("Courier New", "Courier"),
    CJK: (
        # Chinese
        *("SimHei", "SimSun", "NSimSun", "KaiTi", "FangSong", "Microsoft YaHei", "Microsoft JhengHei"),
        *("PingFang SC", "PingFang TC", "PingFang HK", "Heiti SC", "Heiti TC", "Hiragino Sans GB", "STHeiti"),
        *("STSong", "Songti SC", "Arial Unicode MS", "WenQuanYi Zen Hei", "Source Han Sans SC"),
        *("Source Han Sans CN", "Noto Sans SC", "Noto Sans TC", "Noto Sans CJK SC", "Noto Sans CJK TC"),
        # Japanese
        *("MS Gothic", "MS Mincho", "Meiryo", "Yu Gothic", "Hiragino Sans", "Hiragino Kaku Gothic Pro"),
        *("IPAexGothic", "IPAGothic", "TakaoGothic", "Noto Sans JP", "Noto Sans CJK JP"),
        # Korean
        *("Malgun Gothic", "NanumGothic", "NanumBarunGothic", "AppleGothic", "Apple SD Gothic Neo", "Gulim"),
        *("Batang", "Noto Sans KR", "Noto Sans CJK KR"),
    ),
}

RESULT = "\n        return fpaths\n"
RESULT_AND_FALLBACK = """
        if fontext != "ttf":
            return fpaths
        return list(dict.fromkeys([*fpaths, *_fallback_fonts(_normalize_weight(prop.get_weight()) >= 600)]))
"""
FALLBACK_FONTS = '''

@cache
def _fallback_fonts(bold):
    """Return the fonts of the matplotlibrc's font.sans-serif, each in bold or in the weight that it has."""
    found = {}
    for family in mpl.rcParamsOrig["font.sans-serif"]:
        fonts = [font for font in fontManager.ttflist if font.name == family and font.style == "normal"]
        for font in sorted(fonts, key=lambda font: (_normalize_weight(font.weight) >= 600) != bold):
            found.setdefault(family, FontPath(font.fname, font.index))
    return tuple(found.values())
'''


def add_fallback() -> None:
    """Let text in any font fall back to the sans-serif families of the matplotlibrc."""
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise SystemExit("expected matplotlib in the image, found none")
    path = Path(spec.origin).parent / "font_manager.py"
    source = path.read_text()
    if source.count(RESULT) != 1:
        raise SystemExit(f"expected {RESULT.strip()!r} once in {path}; adapt fonts.py to this matplotlib")
    path.write_text(source.replace(RESULT, RESULT_AND_FALLBACK) + FALLBACK_FONTS)


def write_list() -> None:
    """Write the list of fonts, aliases included, where a starting matplotlib looks for it."""
    font_manager = importlib.import_module("matplotlib.font_manager")
    manager = font_manager.FontManager()
    present = {font.name for font in manager.ttflist}
    for family, names in ALIASES.items():
        if family not in present:
            raise SystemExit(f"expected the font family {family!r} in the image, found none")
        for font in [font for font in manager.ttflist if font.name == family]:
            manager.ttflist += [dataclasses.replace(font, name=name) for name in names if name not in present]
    folder = importlib.import_module("matplotlib").get_cachedir()
    font_manager.json_dump(manager, Path(folder, f"fontlist-v{manager.__version__}.json"))


add_fallback()
write_list()

"""The look of results and slices on a page; no colour is needed to read them."""

from typing import Final

STYLE: Final = """
.results tbody th{min-width:15ch}
.slices{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(220px,46%),1fr));gap:12px;margin:0 0 20px}
.slices figure{padding:0;border:0;background:#111;color:#fff;border-radius:4px;overflow:hidden}
.slices img{display:block;width:100%;height:auto}
.slices figcaption{font-size:12.5px;font-weight:400;padding:6px 8px;margin:0;color:#fff}
.keys{background:#111;color:#fff;padding:8px 12px;max-width:none;font-size:14px}
.keys span{border-bottom:3px solid;margin-right:18px;padding-bottom:2px;white-space:nowrap}
.dots{font-size:13px;margin:0 0 8px}.dots span{margin-right:14px;white-space:nowrap}
.dots i{display:inline-block;width:10px;height:10px;border-radius:50%;margin-right:5px}
"""

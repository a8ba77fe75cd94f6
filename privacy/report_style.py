"""The look of the report page: readable on a screen, on paper and without colours; no font, image or file is loaded."""

STYLE = """
:root{color-scheme:light}
*{box-sizing:border-box}
body{margin:0;background:#fff;color:#1b1f24;font:16px/1.55 Georgia,'Times New Roman','DejaVu Serif',serif}
main{max-width:1080px;margin:0 auto;padding:32px 24px 64px}
h1,h2,h3,th,caption,summary,.tag,.cards,svg text,nav{font-family:system-ui,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}
h1{font-size:30px;line-height:1.2;margin:0 0 4px}
h2{font-size:21px;line-height:1.3;margin:48px 0 12px;padding-top:14px;border-top:2px solid #1b1f24}
h3{font-size:17px;line-height:1.35;margin:28px 0 8px;overflow-wrap:anywhere}
p{margin:0 0 12px;max-width:74ch;overflow-wrap:anywhere}
ul,ol{margin:0 0 12px;padding-left:24px;max-width:74ch}li{margin-bottom:4px}
.sub{color:#434b57;margin-bottom:20px;max-width:none}
.tiny table{max-width:560px}
.note{color:#434b57;font-size:14px}
a{color:#1d4f91}
code,pre{font:13px/1.45 ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;overflow-wrap:anywhere}
pre{white-space:pre-wrap;background:#f4f6f9;border:1px solid #cbd5e1;padding:10px 12px;margin:0 0 12px}
.banner{background:#8f0c21;color:#fff;padding:14px 18px;margin:0 0 20px;font:700 17px/1.4 system-ui,'DejaVu Sans',sans-serif}
.verdict{border:2px solid;border-left-width:10px;padding:12px 18px;margin:0 0 20px}
.verdict.good{border-color:#11632e}.verdict.bad{border-color:#8f0c21}
.verdict h2{border:0;margin:0 0 4px;padding:0;font-size:20px}
.tag{font-weight:700;font-size:14px;white-space:nowrap}.tag.good{color:#11632e}.tag.bad{color:#8f0c21}.tag.mind{color:#7a4a00}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:0 0 20px}
.cards div{border:1px solid #cbd5e1;padding:10px 14px}
.cards dt{font-size:13px;color:#434b57}.cards dd{margin:0;font-size:22px;font-weight:600}
.cards{padding:0}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(420px,100%),1fr));gap:16px;margin:0 0 20px}
figure{margin:0;border:1px solid #cbd5e1;padding:10px 12px}
figcaption{font:600 14px/1.4 system-ui,'DejaVu Sans',sans-serif;margin-bottom:2px}
svg{display:block;width:100%;height:auto}svg text{font-size:12px;fill:#374151}svg text.strong{font-weight:700;font-size:14px}
svg text.run{font-size:11px}svg text[fill]{fill:#8f0c21}
.scroll{overflow-x:auto;margin:0 0 20px}
table{border-collapse:collapse;width:100%;font-size:14.5px;line-height:1.4}
caption{caption-side:top;text-align:left;font-weight:600;font-size:14px;padding:0 0 6px}
th,td{text-align:left;vertical-align:top;padding:6px 9px;border-bottom:1px solid #cbd5e1}
thead th{border-bottom:2px solid #434b57;font-size:13px;vertical-align:bottom}
tbody th{font-weight:600}
.n{text-align:right;font-variant-numeric:tabular-nums}
th.n{white-space:normal}td.n{white-space:nowrap}
td,tbody th{overflow-wrap:break-word}td code{display:inline-block;min-width:13ch}
thead th,td.w,th.w{overflow-wrap:normal;word-break:keep-all}td.w,tbody th.w{white-space:nowrap}
details{border:1px solid #cbd5e1;padding:0 14px;margin:0 0 20px}
summary{cursor:pointer;font-weight:600;padding:10px 0}details[open] summary{margin-bottom:6px}
.rounds td,.rounds th{padding:3px 8px;font-size:13px}
nav ol{columns:2;column-gap:32px;padding-left:20px;font-size:14.5px;max-width:none}
:focus-visible{outline:3px solid #1d4f91;outline-offset:2px}
@media (max-width:640px){main{padding:20px 14px 40px}h1{font-size:25px}nav ol{columns:1}.scroll table{min-width:760px}
.scroll.small table{min-width:0}}
@media print{
@page{size:A4;margin:16mm 14mm 18mm}
body{font-size:10.5pt;line-height:1.45}main{max-width:none;padding:0}
h1{font-size:20pt}h2{font-size:14pt;margin-top:22pt}h3{font-size:11.5pt}
h2,h3,caption,summary{break-after:avoid}
p,li,figure,.cards div,.verdict,pre{break-inside:avoid}
.cards{grid-template-columns:repeat(3,1fr)}.cards dd{font-size:15pt}
.charts{grid-template-columns:1fr 1fr}
.scroll{overflow:visible}td{overflow-wrap:anywhere}table{font-size:9pt}.note,thead th,caption{font-size:9pt}
thead{display:table-header-group}tr{break-inside:avoid}tbody tr:first-child,tbody tr:nth-child(2){break-before:avoid}
.rounds td,.rounds th{font-size:8pt;padding:1.5pt 4pt}
details{border:0;padding:0}details::details-content{content-visibility:visible;display:block;height:auto}
summary{list-style:none}summary::-webkit-details-marker{display:none}
nav{display:none}a{color:inherit;text-decoration:none}code,pre{font-size:8pt}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}
}
"""

"use strict";
// Draws the charts when they come into sight, and makes the tables sort and filter. Everything is in the page: nothing is fetched.

const dark = matchMedia("(prefers-color-scheme: dark)");
const specs = JSON.parse(document.getElementById("charts").textContent);
const narrow = matchMedia("(max-width: 40rem)");

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function draw(box) {
  const { data, layout } = structuredClone(specs[box.dataset.chart]);
  const ink = colour("--ink"), lattice = colour("--lattice");
  if (dark.matches) {
    for (const trace of data) {  // the palette's black would not be seen
      for (const part of [trace.line, trace.marker]) if (part?.color === "#000000") part.color = "#FFFFFF";
    }
  }
  const modebar = { bgcolor: "transparent", color: colour("--quiet"), activecolor: ink };
  Object.assign(layout, { modebar, paper_bgcolor: "transparent", plot_bgcolor: "transparent", 
    font: { color: ink, size: narrow.matches ? 11 : 13 } });
  for (const name of ["xaxis", "yaxis"]) {
    layout[name] = { ...layout[name], gridcolor: lattice, zerolinecolor: lattice, linecolor: ink, ticks: "outside", tickcolor: lattice };
    if (layout[name].title) layout[name].title.font = { size: layout.font.size };
  }
  for (const trace of data) if (trace.mode === "markers") trace.marker.line = { color: ink, width: 1 };
  for (const trace of data) if (trace.type === "heatmap" && narrow.matches) trace.showscale = false;
  Plotly.react(box, data, layout, {
    responsive: true, displaylogo: false, showSendToCloud: false, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg" },
  });
  box.dataset.drawn = "";
}

const sight = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) {
      sight.unobserve(entry.target);
      draw(entry.target);
    }
  }
}, { rootMargin: "600px" });
for (const box of document.querySelectorAll(".chart")) sight.observe(box);
dark.addEventListener("change", () => {
  document.documentElement.classList.toggle("dark", dark.matches);
  for (const box of document.querySelectorAll(".chart[data-drawn]")) draw(box);
});
document.documentElement.classList.toggle("dark", dark.matches);

const bytes = Uint8Array.from(atob(document.getElementById("datatables").textContent), (sign) => sign.charCodeAt(0));
import(URL.createObjectURL(new Blob([bytes], { type: "text/javascript" }))).then(({ default: DataTable }) => {
  for (const table of document.querySelectorAll("table.data")) {
    const paged = table.classList.contains("many") && table.tBodies[0].rows.length > 50;
    new DataTable(table, {
      order: [], autoWidth: false, paging: paged, pageLength: 50,
      layout: { topStart: "search", topEnd: null, bottomStart: "info", bottomEnd: paged ? "paging" : null },
      language: { search: "Filter: ", info: "_TOTAL_ of _MAX_ lines", infoEmpty: "0 of _MAX_ lines", infoFiltered: "", zeroRecords: "no line fits" },
    });
  }
  document.documentElement.dataset.tables = "ready";
});

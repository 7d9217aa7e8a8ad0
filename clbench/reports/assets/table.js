for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => {
      const cell = row.cells[column], value = cell.dataset.value;
      return value === undefined ? cell.textContent.trim() : value === "inf" ? Infinity : Number(value);
    };
    const rows = [...table.tBodies[0].rows].map((row, place) => [key(row), place, row]);
    rows.sort(([a, i], [b, j]) => {
      const order = typeof a === "number" && typeof b === "number" ? a - b || 0 : String(a).localeCompare(String(b));
      if (a === Infinity || b === Infinity) return a === b ? i - j : a === Infinity ? 1 : -1;
      return (up ? order : -order) || i - j;
    });
    table.tBodies[0].append(...rows.map(entry => entry[2]));
  }));
}
const form = document.querySelector("form.filters");
if (form) {
  const rows = [...document.querySelectorAll("tr.row")], count = document.getElementById("count");
  const show = () => {
    const wanted = document.getElementById("search").value.trim().toLowerCase();
    const facets = [...form.querySelectorAll("select")].filter(select => select.value);
    let shown = 0;
    for (const row of rows) {
      const fits = facets.every(select => row.dataset[select.dataset.facet] === select.value)
        && row.textContent.toLowerCase().includes(wanted);
      row.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} of ${rows.length}`;
  };
  form.addEventListener("input", show);
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(show));
  show();
}

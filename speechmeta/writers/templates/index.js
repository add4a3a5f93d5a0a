"use strict";
(() => {
  document.documentElement.classList.add("js");
  const body = document.querySelector(".calls tbody");
  if (!body) return;
  const rows = [...body.rows];
  const value = (row, key) => (key === "name" ? row.dataset.name : Number(row.dataset[key]));
  for (const button of document.querySelectorAll("[data-key]")) {
    const head = button.parentElement;
    button.addEventListener("click", () => {
      // Numbers begin with the largest: that is what one looks for.
      const key = button.dataset.key;
      const first = key === "name" ? "ascending" : "descending";
      const other = first === "ascending" ? "descending" : "ascending";
      const next = head.getAttribute("aria-sort") === first ? other : first;
      for (const cell of head.parentElement.querySelectorAll("[aria-sort]")) cell.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      const compare = (a, b) => {
        const [x, y] = [value(a, key), value(b, key)];
        return sign * (key === "name" ? x.localeCompare(y) : x - y);
      };
      body.append(...[...rows].sort(compare));
    });
  }
  const search = document.querySelector("#search");
  search.form.addEventListener("submit", (event) => event.preventDefault());
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      row.hidden = !(row.dataset.name.toLowerCase().includes(wanted) || row.dataset.text.includes(wanted));
      count += !row.hidden;
    }
    document.querySelector("#count").textContent = wanted ? `${count} of ${rows.length} calls` : "";
  });
})();

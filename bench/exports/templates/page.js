"use strict";
(() => {
  const box = document.getElementById("filter");
  if (!box) return;
  const rows = [...document.querySelectorAll("table.sortable tbody tr")].map((row) => {
    const link = row.querySelector('a[href^="#"]');
    const detail = link && document.getElementById(link.hash.slice(1));
    return { row, text: row.textContent.toLowerCase(), detail: detail && detail.closest("details") };
  });

  const filter = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { row, text, detail } of rows) {
      row.hidden = !words.every((word) => text.includes(word));
      if (detail) detail.hidden = row.hidden;
      shown += !row.hidden;
    }
    for (const section of document.querySelectorAll("main > section")) {
      const all = [...section.querySelectorAll("table.sortable tbody tr")];
      section.hidden = words.length > 0 && all.length > 0 && all.every((row) => row.hidden);
    }
    document.getElementById("said").value = `${shown} of ${rows.length} rows`;
  };

  const value = (row, at) => row.cells[at].dataset.sort ?? row.cells[at].textContent.trim();
  const compare = (x, y, down) => {
    if (x === "" || y === "") return (x === "") - (y === ""); // what is not known comes last
    const difference = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
    return down ? -difference : difference;
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, at) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const before = head.getAttribute("aria-sort");
        const down = before ? before === "ascending" : "falling" in head.dataset;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0];
        body.append(...[...body.rows].sort((a, b) => compare(value(a, at), value(b, at), down)));
      });
    });
  }

  const open = () => {
    const target = document.getElementById(location.hash.slice(1));
    const details = target && target.closest("details");
    if (!details) return;
    details.open = true;
    target.scrollIntoView();
  };
  addEventListener("hashchange", open);
  open();

  box.form.hidden = false;
  box.form.addEventListener("submit", (event) => event.preventDefault());
  box.value = new URLSearchParams(location.search).get("q") ?? "";
  box.addEventListener("input", () => {
    const query = box.value ? `?q=${encodeURIComponent(box.value)}` : location.pathname;
    history.replaceState(null, "", query + location.hash);
    filter();
  });
  filter();
})();

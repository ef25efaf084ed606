// What the pages do by themselves: parts that are asked for again, running times, sorted tables.
"use strict";

// <section data-live="/address" data-every="1000">: replaced when the server's answer is another one. What is open,
// scrolled, ticked or focused in it stays so, and what is scrolled to the end of a log (data-tail) follows it.
// An answer with data-ended is the last.
async function renew(part) {
  const headers = part.dataset.etag ? { "If-None-Match": part.dataset.etag } : {};
  let every = Number(part.dataset.every || 1000);
  try {
    const answer = await fetch(part.dataset.live, { headers, cache: "no-store" });
    if (answer.status === 200) {
      const made = document.createElement("template");
      made.innerHTML = await answer.text();
      put(part, made.content, answer.headers.get("ETag"));
    } else if (answer.status !== 304) {
      return;
    }
  } catch {
    every = 5000; // the server has ended, or starts again
  }
  if (part.isConnected && part.dataset.live) setTimeout(() => whenShown(() => renew(part)), every);
}

function put(part, content, etag) {
  const open = [...part.querySelectorAll("details[open][id]")].map((found) => found.id);
  const scrolled = [...part.querySelectorAll("[id]")].map((found) => [found.id, found.scrollTop, found.scrollLeft]);
  const ticked = [...part.querySelectorAll("input[id]:checked")].map((found) => found.id);
  const atEnd = [...part.querySelectorAll("[data-tail]")].every((found) => found.scrollTop + found.clientHeight + 9 > found.scrollHeight);
  const focused = part.contains(document.activeElement) && document.activeElement.id;
  const only = content.children.length === 1 && content.firstElementChild;
  if (only && only.hasAttribute("data-ended")) delete part.dataset.live;
  part.replaceChildren(content);
  if (etag) part.dataset.etag = etag;
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  for (const [id, top, left] of scrolled) {
    const found = document.getElementById(id);
    if (found) [found.scrollTop, found.scrollLeft] = [top, left];
  }
  for (const id of ticked) document.getElementById(id)?.setAttribute("checked", "");
  for (const found of atEnd ? part.querySelectorAll("[data-tail]") : []) found.scrollTop = found.scrollHeight;
  if (focused) document.getElementById(focused)?.focus();
  prepare(part);
}

function whenShown(then) {
  if (!document.hidden) return then();
  document.addEventListener("visibilitychange", () => whenShown(then), { once: true });
}

// <span data-since="seconds since 1970">: how long ago that was
function tick() {
  for (const found of document.querySelectorAll("[data-since]")) {
    const seconds = Math.max(0, Date.now() / 1000 - Number(found.dataset.since));
    const whole = Math.round(seconds);
    found.textContent = whole < 60 ? `${whole} s` : whole < 3600 ? `${Math.floor(whole / 60)} min ${whole % 60} s`
      : `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  }
}

// <table data-sort>: a click on a header sorts; a cell's data-value and title count before its text
function sort(table, column, header) {
  const upwards = header.getAttribute("aria-sort") !== "ascending";
  const value = ({ cells: { [column]: cell } }) => cell.dataset.value ?? (cell.title || cell.textContent.trim());
  const rows = [...table.tBodies[0].rows];
  const numeric = rows.every((row) => value(row) === "" || !Number.isNaN(Number(value(row))));
  const last = (row) => value(row) === "";
  rows.sort((a, b) => {
    if (last(a) || last(b)) return last(a) - last(b);
    const order = numeric ? value(a) - value(b) : value(a).localeCompare(value(b), undefined, { numeric: true });
    return upwards ? order : -order;
  });
  table.tBodies[0].append(...rows);
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", upwards ? "ascending" : "descending");
}

function prepare(root) {
  for (const table of root.querySelectorAll("table[data-sort]")) {
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      if (!header.textContent.trim() || header.querySelector("button")) return;
      const button = document.createElement("button");
      button.append(...header.childNodes);
      button.addEventListener("click", () => sort(table, column, header));
      header.append(button);
    });
  }
  if (root === document) {
    for (const found of root.querySelectorAll("[data-tail]")) found.scrollTop = found.scrollHeight;
    for (const found of root.querySelectorAll("[data-central]")) { // of what scrolls in a .graph
      const box = found.closest(".graph"), around = box.getBoundingClientRect(), at = found.getBoundingClientRect();
      box.scrollLeft += at.left - around.left - (around.width - at.width) / 2;
      box.scrollTop += Math.min(at.top - around.top - 12, at.bottom - around.top - around.height / 2);
    }
  }
  for (const part of root.querySelectorAll("[data-live]")) renew(part);
  tick();
}

document.addEventListener("change", (event) => { // <form data-auto>: sent by each change
  const form = event.target.form;
  if (form?.hasAttribute("data-auto")) form.requestSubmit();
});
document.addEventListener("submit", (event) => {
  const question = event.submitter?.dataset.confirm ?? event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});
document.addEventListener("click", async (event) => { // <button data-copy="id of what is copied">
  const source = event.target.closest?.("[data-copy]");
  if (!source) return;
  await navigator.clipboard.writeText(document.getElementById(source.dataset.copy).textContent);
  source.textContent = "Copied";
});
setInterval(tick, 1000);
prepare(document);

// Values under the pointer, and zoom: drag along x, double-click back. The page is complete without this script.
"use strict";
(() => {
  const tip = document.createElement("div");
  tip.className = "tip"; tip.hidden = true;
  document.body.append(tip);
  const fmt = value => {
    const size = Math.abs(value);
    if (size && (size >= 1e6 || size < 1e-3)) return value.toExponential(2).replace(/\.?0+e\+?/, "e");
    return String(+value.toPrecision(4));
  };
  const ticks = (low, high, log, whole) => {
    if (log && high - low >= 2) {
      const step = Math.ceil((high - low) / 6), found = [];
      for (let power = Math.ceil(low); power <= high; power += step) found.push(10 ** power);
      return found;
    }
    const [first, last] = log ? [10 ** low, 10 ** high] : [low, high], span = last - first;
    const power = 10 ** Math.floor(Math.log10(span / 6));
    const steps = [1, 2, 5, 10, 20].map(size => size * power).filter(size => !whole || size >= 1);
    const step = steps.find(size => span / size <= 6) || steps.at(-1) || 1, found = [];
    for (let number = Math.ceil(first / step); number * step <= last; number++) found.push(number * step);
    return found;
  };

  for (const svg of document.querySelectorAll("svg[data-axes]")) {
    const [x0, x1, xLog, y0, y1, yLog] = svg.dataset.axes.split(" ").map(Number);
    const inner = svg.querySelector("svg.series"), whole = svg.hasAttribute("data-whole");
    const width = +inner.getAttribute("width"), height = +inner.getAttribute("height");
    const marks = [...inner.querySelectorAll("[data-x]")].map(element => ({ element,
      x: JSON.parse(element.dataset.x), y: JSON.parse(element.dataset.y), name: element.dataset.name || "" }));
    const lines = marks.filter(mark => mark.element.matches(".line,.area"));
    let view = [x0, x1, y0, y1], dragged = null;
    const at = (value, log, low, high, length) => length * ((log ? Math.log10(value) : value) - low) / (high - low);
    const across = value => at(value, xLog, view[0], view[1], width);
    const up = value => value === null ? 0 : Math.min(Math.max(
      height - at(Math.max(value, yLog ? 1e-300 : -1e300), yLog, view[2], view[3], height), -1e4), 1e4);

    const axis = (name, values, place) => {
      const group = svg.querySelector(".axis." + name);
      group.replaceChildren(...values.flatMap(value => {
        const line = document.createElementNS(svg.namespaceURI, "path"), text = document.createElementNS(svg.namespaceURI, "text");
        const position = place(value);
        line.setAttribute("d", name === "x" ? `M${position} 0V${height}` : `M0 ${position}H${width}`);
        text.setAttribute("x", name === "x" ? position : -5);
        text.setAttribute("y", name === "x" ? height + 14 : position + 4);
        text.textContent = fmt(value);
        return [line, text];
      }));
    };
    const draw = () => {
      inner.classList.toggle("zoomed", view[0] !== x0 || view[1] !== x1);
      for (const { element, x, y } of marks) {
        if (element.tagName === "circle") {
          element.setAttribute("cx", across(x[0])); element.setAttribute("cy", up(y[0]));
        } else {
          let pen = "M", d = "";
          x.forEach((value, n) => {
            if (y[n] !== null) d += `${pen}${across(value).toFixed(1)} ${up(y[n]).toFixed(1)}`;
            pen = y[n] === null ? "M" : "L";
          });
          if (element.matches(".area")) d += `L${across(x.at(-1))} ${height}L${across(x[0])} ${height}Z`;
          element.setAttribute("d", d);
        }
      }
      axis("x", ticks(view[0], view[1], xLog, whole), across);
      axis("y", ticks(view[2], view[3], yLog), up);
    };
    const zoom = (from, to) => {  // px
      const [low, high] = [from, to].map(px => view[0] + (view[1] - view[0]) * px / width);
      const shown = marks.filter(mark => !mark.element.matches(".threshold,.mark")).flatMap(({ x, y }) => y.filter(
        (value, n) => value !== null && (!yLog || value > 0) && across(x[n]) >= from && across(x[n]) <= to));
      if (!shown.length) return;
      const ends = [Math.min(...shown), Math.max(...shown)].map(value => yLog ? Math.log10(value) : value);
      const room = 0.05 * (ends[1] - ends[0]) || 0.05 * Math.abs(ends[0]) || 0.5;
      view = [low, high, ends[0] - room, ends[1] + room];
      draw();
    };

    const shade = document.createElementNS(svg.namespaceURI, "rect");
    shade.setAttribute("class", "shade"); shade.setAttribute("height", height); shade.setAttribute("width", 0);
    inner.append(shade);
    const pointed = event => {
      const box = svg.querySelector(".plot").getBoundingClientRect();
      return Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1) * width;
    };
    const cover = (from, to) => { shade.setAttribute("x", from); shade.setAttribute("width", Math.max(to - from, 0)); };
    svg.addEventListener("pointermove", event => {
      const px = pointed(event);
      if (dragged !== null) cover(Math.min(px, dragged), Math.max(px, dragged)); else cover(px - 0.5, px + 0.5);
      const rows = lines.map(({ element, x, y, name }) => {
        let best = -1;
        x.forEach((value, n) => {
          if (best < 0 || Math.abs(across(value) - px) < Math.abs(across(x[best]) - px)) best = n;
        });
        return best < 0 ? null : { at: x[best], text: (name ? name + ": " : "") + (y[best] === null ? "not a number" : fmt(y[best])) };
      }).filter(Boolean);
      tip.hidden = !rows.length;
      if (!rows.length) return;
      tip.textContent = [`${svg.querySelector(".title").textContent} ${fmt(rows[0].at)}`, ...rows.map(row => row.text)].join("\n");
      tip.style.left = Math.min(event.pageX + 14, document.documentElement.clientWidth - tip.offsetWidth - 8) + "px";
      tip.style.top = event.pageY + 14 + "px";
    });
    svg.addEventListener("pointerleave", () => { tip.hidden = true; dragged = null; cover(0, 0); });
    if (svg.hasAttribute("data-still")) continue;
    svg.addEventListener("pointerdown", event => { dragged = pointed(event); event.preventDefault(); });
    svg.addEventListener("pointerup", event => {
      const px = pointed(event), from = dragged;
      dragged = null; cover(0, 0);
      if (from !== null && Math.abs(px - from) > 4) zoom(Math.min(px, from), Math.max(px, from));
    });
    svg.addEventListener("dblclick", () => { view = [x0, x1, y0, y1]; draw(); });
  }
})();

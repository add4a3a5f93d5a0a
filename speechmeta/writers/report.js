"use strict";
(() => {
  document.documentElement.classList.add("js");
  const tip = document.getElementById("tip");
  const canvas = document.querySelector(".canvas");
  const axis = document.querySelector(".axis");
  const scroll = document.querySelector(".scroll");
  const rowOf = (turn) => document.getElementById(turn.dataset.row);

  const show = (turn, x, y) => {
    tip.textContent = turn.dataset.tip;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = Math.min(x + 14, innerWidth - box.width - 8);
    const top = y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, top)}px`;
  };
  const hide = () => { tip.hidden = true; };
  const mark = (turn, on) => {
    turn.classList.toggle("on", on);
    rowOf(turn).classList.toggle("on", on);
  };

  for (const turn of document.querySelectorAll(".turn")) {
    turn.addEventListener("mousemove", (event) => show(turn, event.clientX, event.clientY));
    turn.addEventListener("mouseenter", () => mark(turn, true));
    turn.addEventListener("mouseleave", () => { mark(turn, false); hide(); });
    turn.addEventListener("focus", () => {
      const box = turn.getBoundingClientRect();
      mark(turn, true);
      if (turn.matches(":focus-visible")) show(turn, box.left, box.bottom - 20);
    });
    turn.addEventListener("blur", () => { mark(turn, false); hide(); });
    turn.addEventListener("click", () => rowOf(turn).scrollIntoView({ block: "center", behavior: "smooth" }));
    const row = rowOf(turn);
    row.addEventListener("mouseenter", () => mark(turn, true));
    row.addEventListener("mouseleave", () => mark(turn, false));
  }
  if (!canvas) return;

  const duration = Number(canvas.dataset.duration);
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];
  const clock = (seconds) => {
    const parts = [Math.floor(seconds / 60) % 60, seconds % 60].map((n) => String(n).padStart(2, "0"));
    const hours = Math.floor(seconds / 3600);
    return (duration >= 3600 ? [hours, ...parts] : [Number(parts[0]), parts[1]]).join(":");
  };
  const draw = () => {
    const perTick = (duration / Math.max(1, canvas.clientWidth)) * 80;
    const step = steps.find((n) => n >= perTick) ?? 14400;
    axis.replaceChildren();
    for (let at = 0; at < duration; at += step) {
      const tick = document.createElement("span");
      tick.className = "tick";
      tick.style.left = `${(at / duration) * 100}%`;
      tick.textContent = clock(at);
      axis.append(tick);
    }
  };
  let zoom = 1;
  const zoomTo = (next) => {
    const middle = (scroll.scrollLeft + scroll.clientWidth / 2) / canvas.clientWidth;
    zoom = Math.min(Math.max(next, 1), Math.max(1, (duration * 100) / scroll.clientWidth));
    canvas.style.setProperty("--zoom", zoom);
    scroll.scrollLeft = middle * canvas.clientWidth - scroll.clientWidth / 2;
    draw();
  };
  const actions = { in: () => zoomTo(zoom * 2), out: () => zoomTo(zoom / 2), fit: () => zoomTo(1) };
  for (const button of document.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", actions[button.dataset.zoom]);
  }
  addEventListener("resize", draw);
  draw();
})();

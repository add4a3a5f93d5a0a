"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const one = (selector) => document.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const tip = one("#tip");
  const canvas = one(".canvas");
  const axis = one(".axis");
  const scroll = one(".scroll");
  const playhead = one(".playhead");
  const sound = one("#sound");
  const duration = Number(canvas.dataset.duration);

  // In a frame, such as the app's: the page around it makes room.
  if (parent !== window) {
    const main = one("main");
    const tell = () => parent.postMessage({ speechmetaHeight: Math.ceil(main.getBoundingClientRect().height) + 2 }, "*");
    new ResizeObserver(tell).observe(main);
  }

  // A turn is a button of the timeline and a row of the table.
  const turns = all(".turn").map((button) => {
    const row = document.getElementById(button.dataset.row);
    const words = all(".w", row);
    return {
      button, row, words, start: Number(row.dataset.start), end: Number(row.dataset.end),
      lane: button.parentElement, speaker: row.dataset.speaker, text: row.textContent.toLowerCase(),
    };
  }).sort((a, b) => a.start - b.start || a.end - b.end);
  const byButton = new Map(turns.map((turn) => [turn.button, turn]));

  // Text beside the pointer.
  const show = (turn, x, y) => {
    tip.textContent = turn.button.dataset.tip;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = Math.min(x + 14, innerWidth - box.width - 8);
    const top = y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, top)}px`;
  };
  const hide = () => { tip.hidden = true; };
  const mark = (turn, on) => {
    turn.button.classList.toggle("on", on);
    turn.row.classList.toggle("on", on);
  };

  // Sound: the playhead, the turns and the words that are heard.
  let playable = Boolean(sound);
  const play = (seconds) => {
    if (!playable) return;
    sound.currentTime = seconds;
    sound.play().catch(() => { if (sound.error) unplayable(); });
  };
  const unplayable = () => {
    playable = false;
    one("#unplayable").hidden = false;
  };
  const follow = () => {
    const now = sound.currentTime;
    const begun = now > 0 || !sound.paused;
    playhead.hidden = !begun;
    playhead.style.left = `${(Math.min(now, duration) / duration) * 100}%`;
    for (const turn of turns) {
      const on = begun && turn.start <= now && now < turn.end;
      if (on !== turn.on) {
        turn.on = on;
        turn.button.classList.toggle("now", on);
        turn.row.classList.toggle("now", on);
      }
      if (!turn.words.length || !(on || turn.lit)) continue;
      const word = on ? turn.words.findLast((w) => Number(w.dataset.s) <= now) : undefined;
      if (word !== turn.lit) {
        turn.lit?.classList.remove("now");
        word?.classList.add("now");
        turn.lit = word;
      }
    }
    const x = (now / duration) * canvas.clientWidth;
    if (!sound.paused && canvas.clientWidth > scroll.clientWidth
        && (x < scroll.scrollLeft || x > scroll.scrollLeft + scroll.clientWidth - 40)) {
      scroll.scrollLeft = x - 40;
    }
    if (!sound.paused) requestAnimationFrame(follow);
  };
  if (sound) {
    root.classList.add("sounding");
    for (const event of ["play", "pause", "seeked", "timeupdate", "ended"]) sound.addEventListener(event, follow);
    sound.addEventListener("error", unplayable);
    if (sound.error) unplayable();
  }

  const toRow = (turn) => turn.row.scrollIntoView({
    block: "center", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth",
  });
  for (const turn of turns) {
    const { button, row } = turn;
    button.addEventListener("mousemove", (event) => show(turn, event.clientX, event.clientY));
    button.addEventListener("mouseenter", () => mark(turn, true));
    button.addEventListener("mouseleave", () => { mark(turn, false); hide(); });
    button.addEventListener("focus", () => {
      mark(turn, true);
      rove(turn);
      if (!button.matches(":focus-visible")) return;
      const box = button.getBoundingClientRect();
      show(turn, box.left, box.bottom - 20);
    });
    button.addEventListener("blur", () => { mark(turn, false); hide(); });
    button.addEventListener("click", () => { play(turn.start); toRow(turn); });
    row.addEventListener("mouseenter", () => mark(turn, true));
    row.addEventListener("mouseleave", () => mark(turn, false));
    row.querySelector(".play")?.addEventListener("click", () => play(turn.start));
    for (const word of turn.words) word.addEventListener("click", () => play(Number(word.dataset.s)));
  }

  // The timeline is one stop of the tabulator; arrows go on within it.
  const rove = (turn) => {
    for (const other of turns) other.button.tabIndex = other === turn ? 0 : -1;
  };
  if (turns.length) rove(turns[0]);
  const lanes = all(".lane");
  const nearest = (list, at) => list.reduce(
    (best, turn) => (best && Math.abs(best.start - at) <= Math.abs(turn.start - at) ? best : turn), undefined);
  canvas.addEventListener("keydown", (event) => {
    const turn = byButton.get(event.target);
    if (!turn || event.ctrlKey || event.metaKey || event.altKey) return;
    const place = turns.indexOf(turn);
    const lane = (step) => nearest(
      turns.filter((other) => other.lane === lanes[lanes.indexOf(turn.lane) + step]), turn.start);
    const next = {
      ArrowRight: () => turns[place + 1], ArrowLeft: () => turns[place - 1],
      ArrowDown: () => lane(1), ArrowUp: () => lane(-1),
      Home: () => turns[0], End: () => turns[turns.length - 1],
    }[event.key];
    if (!next) return;
    event.preventDefault();
    next()?.button.focus();
  });

  // Time axis and zoom.
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];
  const clock = (seconds) => {
    const parts = [Math.floor(seconds / 60) % 60, seconds % 60].map((n) => String(n).padStart(2, "0"));
    const hours = Math.floor(seconds / 3600);
    return (duration >= 3600 ? [hours, ...parts] : [Number(parts[0]), parts[1]]).join(":");
  };
  const draw = () => {
    const perTick = (duration / Math.max(1, canvas.clientWidth)) * 80;
    const step = steps.find((n) => n >= perTick) ?? 14400;
    const ticks = [];
    for (let at = 0; at < duration; at += step) {
      const tick = document.createElement("span");
      tick.className = "tick";
      tick.style.left = `${(at / duration) * 100}%`;
      tick.textContent = clock(at);
      ticks.push(tick);
    }
    axis.replaceChildren(...ticks);
    drawWaves();
  };

  // Zoomed in, what is seen of the waveform is drawn from its fine outline.
  const waves = all(".lane canvas").map((element) => ({
    element, values: Uint8Array.from(atob(element.dataset.fine), (c) => c.charCodeAt(0)),
    seconds: Number(element.dataset.seconds), turns: turns.filter((turn) => turn.lane === element.parentElement),
  }));
  let zoom = 1;
  const drawWaves = () => {
    canvas.classList.toggle("fine", zoom > 1 && waves.length > 0);
    if (zoom <= 1) return;
    const ratio = devicePixelRatio || 1;
    const width = scroll.clientWidth;
    const plain = getComputedStyle(root).getPropertyValue("--wave");
    for (const { element, values, seconds, turns: own } of waves) {
      element.style.width = `${width}px`;
      const height = element.clientHeight;
      element.width = width * ratio;
      element.height = height * ratio;
      const pen = element.getContext("2d");
      pen.scale(ratio, ratio);
      const perPixel = duration / canvas.clientWidth;
      const first = scroll.scrollLeft * perPixel;
      const seen = own.filter((turn) => turn.end >= first && turn.start <= first + width * perPixel);
      for (let x = 0; x < width; x += 1) {
        const at = first + x * perPixel;
        const begin = Math.floor((at / seconds) * values.length);
        if (begin >= values.length) break;
        const end = Math.max(begin + 1, Math.floor(((at + perPixel) / seconds) * values.length));
        let loudest = 1;
        for (let i = begin; i < end && i < values.length; i += 1) loudest = Math.max(loudest, values[i]);
        const turn = seen.find((other) => other.start <= at && at < other.end);
        pen.fillStyle = turn ? turn.button.style.getPropertyValue("--c") : plain;
        const high = Math.max(1, (loudest / 100) * height);
        pen.fillRect(x, (height - high) / 2, 1, high);
      }
    }
  };
  const zoomTo = (next) => {
    const middle = (scroll.scrollLeft + scroll.clientWidth / 2) / canvas.clientWidth;
    zoom = Math.min(Math.max(next, 1), Math.max(1, (duration * 100) / scroll.clientWidth));
    canvas.style.setProperty("--zoom", zoom);
    scroll.scrollLeft = middle * canvas.clientWidth - scroll.clientWidth / 2;
    draw();
  };
  const actions = { in: () => zoomTo(zoom * 2), out: () => zoomTo(zoom / 2), fit: () => zoomTo(1) };
  for (const button of all("[data-zoom]")) button.addEventListener("click", actions[button.dataset.zoom]);
  scroll.addEventListener("scroll", () => requestAnimationFrame(drawWaves), { passive: true });
  addEventListener("resize", draw);
  draw();

  // Search, filters, order.
  const search = one("#search");
  if (!search) return;
  const body = one(".turns tbody");
  const chosen = (id) => one(id)?.value ?? "";
  const number = (name) => (turn) => -Number(turn.row.dataset[name] ?? -Infinity);
  const keys = {
    start: (turn) => turn.start, seconds: (turn) => turn.start - turn.end,
    speaker: (turn) => turn.speaker, emotion: (turn) => turn.row.dataset.emotion ?? "\uffff",
    loudness: number("loudness"), confidence: (turn) => Number(turn.row.dataset.confidence ?? Infinity),
  };
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  const highlight = (wanted) => {
    if (!("highlights" in CSS)) return;
    CSS.highlights.delete("search");
    if (!wanted) return;
    const found = [];
    for (const turn of turns.filter((other) => !other.row.hidden)) {
      const walker = document.createTreeWalker(turn.row.querySelector(".said"), NodeFilter.SHOW_TEXT);
      while (walker.nextNode()) {
        const text = walker.currentNode.data.toLowerCase();
        for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + wanted.length)) {
          const range = new Range();
          range.setStart(walker.currentNode, at);
          range.setEnd(walker.currentNode, Math.min(at + wanted.length, walker.currentNode.length));
          found.push(range);
        }
      }
    }
    CSS.highlights.set("search", new Highlight(...found));
  };
  const sift = () => {
    const wanted = search.value.trim().toLowerCase();
    const speaker = chosen("#speaker");
    const label = chosen("#label");
    const [name, value] = [label.slice(0, label.indexOf("=")), label.slice(label.indexOf("=") + 1)];
    const fits = (turn) => {
      if (wanted && !turn.text.includes(wanted)) return false;
      if (speaker && turn.speaker !== speaker) return false;
      if (!label) return true;
      const own = turn.row.dataset[name] ?? "";
      return name === "flags" ? own.split(";").includes(value) : own === value;
    };
    let count = 0;
    for (const turn of turns) {
      const on = fits(turn);
      count += on;
      turn.row.hidden = !on;
      turn.button.classList.toggle("off", !on);
    }
    const filtered = wanted || speaker || label;
    one("#count").textContent = filtered ? `${count} of ${turns.length} turns` : "";
    highlight(wanted);
  };
  const order = () => {
    const key = keys[chosen("#sort")];
    const rows = [...turns].sort((a, b) => compare(key(a), key(b)) || a.start - b.start);
    body.append(...rows.map((turn) => turn.row));
  };
  search.form.addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["#search", "#speaker", "#label"]) one(id)?.addEventListener("input", sift);
  one("#sort").addEventListener("input", order);
})();

// Pictures of the class "zoomable": a pinch, Ctrl (or ⌘) and the wheel, or after a click the wheel alone zoom about the
// pointer, dragging moves, a double click resets. Without them the wheel and one finger scroll the page, also over
// Gradio's own slider between two pictures (class "scrollable"), which would keep them to itself.
(() => {
  const MAX_SCALE = 12;
  const states = new WeakMap();
  const pointers = new Map(); // those that are down on the held picture
  let active = null; // the picture that was clicked last
  let held = null;
  const picture = (event) => event.target.closest?.(".zoomable img");
  const state = (image) => states.get(image) ?? { scale: 1, x: 0, y: 0 };

  function show(image, { scale, x, y }) {
    if (scale <= 1) [scale, x, y] = [1, 0, 0];
    states.set(image, { scale, x, y });
    image.style.transformOrigin = "0 0";
    image.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
    image.style.touchAction = scale > 1 ? "none" : "pan-x pan-y";
    image.style.cursor = scale > 1 ? "grab" : "zoom-in";
  }

  // The point of the picture that is at `from` comes to `to`, by `factor` larger.
  function zoom(image, factor, from, to) {
    const { scale, x, y } = state(image);
    const next = Math.min(MAX_SCALE, Math.max(1, scale * factor));
    const box = image.getBoundingClientRect();
    const point = { x: (from.x - box.left) / scale, y: (from.y - box.top) / scale };
    show(image, {
      scale: next,
      x: to.x - (box.left - x) - point.x * next,
      y: to.y - (box.top - y) - point.y * next,
    });
  }

  function activate(image) {
    active?.classList.remove("active");
    active = image;
    active?.classList.add("active");
  }

  document.addEventListener("wheel", (event) => {
    const free = !event.ctrlKey && !event.metaKey;
    if (free && event.target.closest?.(".scrollable")) event.stopPropagation();
    const image = picture(event);
    if (!image || (free && image !== active)) return;
    event.preventDefault();
    const pointer = { x: event.clientX, y: event.clientY };
    zoom(image, Math.exp(-event.deltaY / 400), pointer, pointer);
  }, { passive: false, capture: true });
  document.addEventListener("touchstart", (event) => {
    const slider = event.target.closest?.(".scrollable");
    if (slider && event.touches.length === 1 && !event.target.closest("[role=slider]")) event.stopPropagation();
  }, { capture: true });

  const middle = () => {
    const [first, second = first] = pointers.values();
    return { x: (first.x + second.x) / 2, y: (first.y + second.y) / 2, span: Math.hypot(first.x - second.x, first.y - second.y) };
  };
  document.addEventListener("pointerdown", (event) => {
    const image = picture(event);
    if (image !== held) pointers.clear();
    held = image;
    if (!image) return;
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (event.pointerType === "mouse" && state(image).scale > 1) event.preventDefault();
  });
  document.addEventListener("pointermove", (event) => {
    if (!held || !pointers.has(event.pointerId)) return;
    const before = middle();
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    const after = middle();
    if (pointers.size > 1 || state(held).scale > 1) zoom(held, before.span ? after.span / before.span : 1, before, after);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    document.addEventListener(end, (event) => { pointers.delete(event.pointerId); });
  }
  document.addEventListener("click", (event) => { activate(picture(event)); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") activate(null); });
  document.addEventListener("dblclick", (event) => {
    const image = picture(event);
    if (image) show(image, { scale: 1, x: 0, y: 0 });
  });
})();

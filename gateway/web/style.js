/** How <ringback-chat> looks. Pages change it by the --ringback-… properties and `::part`. */

const RULES = `
:host {
  --accent: var(--ringback-accent, light-dark(#2f4fd0, #9db1ff));
  --on-accent: var(--ringback-on-accent, light-dark(#fff, #0d1330));
  --ground: var(--ringback-background, light-dark(#fff, #14161c));
  --raised: var(--ringback-bubble, light-dark(#eff1f6, #252934));
  --text: var(--ringback-text, light-dark(#171a22, #eceef4));
  --muted: var(--ringback-muted, light-dark(#5a6072, #a5abbb));
  --line: var(--ringback-line, light-dark(#e1e4ec, #2c313d));
  --alarm: var(--ringback-alarm, light-dark(#b3261e, #ff9d94));
  --radius: var(--ringback-radius, 18px);
  --shadow: 0 8px 32px #0004;
  color-scheme: light dark;
}
:host([theme=light]) { color-scheme: light; }
:host([theme=dark]) { color-scheme: dark; }
:host([hidden]), [hidden] { display: none !important; }
* { box-sizing: border-box; margin: 0; }
button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
svg { width: 24px; height: 24px; fill: currentColor; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; flex: none; }
.unseen {
  position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap;
}
.said { position: fixed; top: 0; }
.launcher {
  position: fixed; inset-block-end: var(--ringback-bottom, 20px);
  inset-inline-end: var(--ringback-side, 20px); z-index: var(--ringback-layer, 2147483000);
  display: grid; place-items: center; width: 60px; height: 60px; border-radius: 50%;
  color: var(--on-accent); background: var(--accent);
  box-shadow: var(--shadow); transition: transform .15s ease;
}
.launcher:hover { transform: translateY(-2px); }
.launcher svg { width: 28px; height: 28px; }
.badge {
  position: absolute; inset-block-start: -4px; inset-inline-end: -4px; min-width: 24px;
  padding: 0 6px; border-radius: 12px; font-size: 13px; font-weight: 650; line-height: 24px;
  text-align: center; color: #fff; background: #c4281f; box-shadow: 0 0 0 2px var(--ground);
}
.panel {
  all: initial; color-scheme: inherit; visibility: inherit; -webkit-locale: inherit;
  font: 15px/1.45 var(--ringback-font, system-ui, sans-serif);
  color: var(--text); box-sizing: border-box;
  position: fixed; inset-block-end: calc(var(--ringback-bottom, 20px) + 76px);
  inset-inline-end: var(--ringback-side, 20px); z-index: var(--ringback-layer, 2147483000);
  display: flex; flex-direction: column; width: min(392px, calc(100vw - 40px));
  height: min(640px, calc(100dvh - 116px)); overflow: hidden; border-radius: var(--radius);
  background: var(--ground); border: 1px solid var(--line); overflow-wrap: anywhere;
  box-shadow: var(--shadow); animation: rise .18s ease-out;
}
@keyframes rise { from { opacity: 0; transform: translateY(10px); } }
.head {
  display: flex; align-items: center; gap: 12px; padding: 16px 12px 14px 20px;
  border-bottom: 1px solid var(--line);
}
.head div { flex: 1; min-width: 0; }
h2 { font-size: 17px; line-height: 1.3; font-weight: 650; }
.live { font-size: 13px; color: var(--muted); }
.close { display: grid; place-items: center; width: 40px; height: 40px; border-radius: 50%; color: var(--muted); }
.close:hover { color: var(--text); background: var(--raised); }
.close svg { width: 20px; height: 20px; }
.notice:not(:empty) {
  display: flex; flex-wrap: wrap; gap: 4px 12px; align-items: center; justify-content: space-between;
  min-height: 42px; padding: 4px 20px; font-size: 13px; background: var(--raised);
}
.notice button { min-height: 32px; font-weight: 600; color: var(--accent); text-decoration: underline; }
.middle { position: relative; flex: 1; min-height: 0; display: flex; }
.thread {
  position: relative; flex: 1; overflow-y: auto; overflow-anchor: none; overscroll-behavior: contain;
  padding: 16px 16px 8px; scrollbar-width: thin;
}
.thread:focus-visible { outline-offset: -2px; }
.greeting { padding: 18% 24px 8px; text-align: center; color: var(--muted); }
.greeting svg { display: block; width: 40px; height: 40px; margin: 0 auto 12px; color: var(--accent); }
.list { display: flex; flex-direction: column; padding: 0; list-style: none; }
li { display: flex; flex-direction: column; align-items: flex-start; max-width: 84%; margin-top: 3px; }
li.last + li:not(.first, .day, .system) { margin-top: 10px; }
li.first { margin-top: 14px; }
li.own { align-self: flex-end; align-items: flex-end; }
li.day, li.system { align-self: center; align-items: center; max-width: 92%; margin: 14px 0 2px; }
.day span { font-size: 12px; font-weight: 600; color: var(--muted); }
.day + li.first { margin-top: 8px; }
.author { margin: 0 14px 3px; font-size: 12px; font-weight: 600; color: var(--muted); }
.text {
  padding: 8px 14px; border-radius: var(--radius); background: var(--raised);
  max-width: 100%; white-space: pre-wrap; unicode-bidi: plaintext; text-align: start;
}
.own .text { color: var(--on-accent); background: var(--accent); }
.other.last .text { border-end-start-radius: 5px; }
.own.last .text { border-end-end-radius: 5px; }
.own.waiting .text { opacity: .85; }
.own.failed .text { color: var(--alarm); background: none; box-shadow: inset 0 0 0 1px var(--alarm); }
.system .text { padding: 2px 8px; font-size: 13px; text-align: center; color: var(--muted); background: none; }
.text a { color: inherit; text-underline-offset: 2px; }
.about { display: flex; flex-wrap: wrap; align-items: center; gap: 0 6px; margin: 3px 6px 0; font-size: 12px; color: var(--muted); }
.about svg { width: 14px; height: 14px; margin-inline-start: -3px; }
.read svg { color: var(--accent); }
.failed .mark { color: var(--alarm); font-weight: 600; }
.about button { min-height: 32px; padding: 0 4px; color: var(--text); text-decoration: underline; text-underline-offset: 2px; }
.typing { min-height: 26px; display: flex; align-items: center; gap: 8px; padding: 4px 2px 0; font-size: 13px; color: var(--muted); }
.dots { display: inline-flex; gap: 4px; padding: 8px 10px; border-radius: 14px; background: var(--raised); }
.dots i { width: 6px; height: 6px; border-radius: 50%; background: currentColor; animation: blink 1.2s infinite; }
.dots i:nth-child(2) { animation-delay: .15s; }
.dots i:nth-child(3) { animation-delay: .3s; }
@keyframes blink { 0%, 60%, 100% { opacity: .3; } 30% { opacity: 1; } }
.down {
  position: absolute; inset-block-end: 10px; inset-inline: 0; width: fit-content; margin: auto;
  min-height: 32px; padding: 4px 14px; border-radius: 16px; font-size: 13px; font-weight: 600;
  color: var(--on-accent); background: var(--accent); box-shadow: var(--shadow);
}
.problem:not(:empty) { padding: 6px 20px; font-size: 13px; color: var(--alarm); }
form { display: flex; align-items: flex-end; gap: 8px; padding: 10px 12px 12px; border-top: 1px solid var(--line); }
textarea {
  flex: 1; min-height: 44px; max-height: 30dvh; padding: 10px 14px; resize: none; font: inherit;
  font-size: 16px; line-height: 1.4; color: inherit; background: var(--raised);
  border: 1px solid transparent; border-radius: 22px;
}
textarea::placeholder { color: var(--muted); opacity: 1; }
textarea:focus-visible { outline-offset: 0; }
.send { display: grid; place-items: center; width: 44px; height: 44px; border-radius: 50%; color: var(--on-accent); background: var(--accent); }
.send svg { width: 20px; height: 20px; }
.send:dir(rtl) svg { transform: scaleX(-1); }
:host([inline]) { display: block; height: 100%; min-height: 320px; }
:host([inline]) .panel { position: static; width: 100%; height: 100%; min-height: inherit; animation: none; box-shadow: none; }
:host([inline]) .launcher, :host([inline]) .close { display: none; }
.panel:not([open]) { display: none; }
.panel:modal { inset: 0; width: 100%; height: 100dvh; border: 0; border-radius: 0; }
:modal form { padding-bottom: max(12px, env(safe-area-inset-bottom)); }
@media print { :host(:not([inline])) { display: none } }
@media (prefers-reduced-motion: reduce) { * { animation: none !important; transition: none !important; } }
@media (forced-colors: active) { .text, .launcher, .send, .down, textarea { border: 1px solid; } }
`;

/** The one sheet that all widgets of a page share: constructed, so that no inline style is needed. */
export const sheet = new CSSStyleSheet();
const known = CSS.supports("color: light-dark(red, red)"); // since 2024
sheet.replaceSync(known ? RULES : RULES.replace(/light-dark\((.+?),.+?\)/g, "$1"));

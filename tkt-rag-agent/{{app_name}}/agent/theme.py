"""Colours and fonts of the page: teal and amber, square corners, no font fetched from anywhere."""

import gradio as gr
from gradio.themes.utils import colors, fonts, sizes

TEAL = colors.Color(
    name="teal",
    c50="#eef5f8",
    c100="#dbe9ef",
    c200="#bdd5df",
    c300="#93b9c9",
    c400="#70a5bc",
    c500="#3c82a3",
    c600="#2b5e76",
    c700="#254f63",
    c800="#20404f",
    c900="#1a3340",
    c950="#122530",
)
SLATE = colors.Color(
    name="slate",
    c50="#fcfcfa",
    c100="#f3f3f1",
    c200="#e5e5e4",
    c300="#cfd2d3",
    c400="#9aa5ab",
    c500="#5f6e77",
    c600="#52616b",
    c700="#3f4f5b",
    c800="#303d47",
    c900="#29343d",
    c950="#1f282f",
)

CSS = """
.gradio-container { --good: #39704e; --bad: #a6544d; --amber: #bfa873; --marked: #f1e3bd; }
.dark .gradio-container, .dark.gradio-container, .dark {
  --good: #8fc4a3; --bad: #e59a93; --amber: #d1b976; --marked: #d1b976; }
.talk .top-panel, .talk [data-testid="status-tracker"], .side [data-testid="status-tracker"],
footer { display: none !important; }
.gradio-container { overflow-wrap: anywhere; }
.head { border-left: 6px solid var(--amber); padding: 2px 0 2px 14px; }
.head h1 { font-size: 1.6rem; font-weight: 600; margin: 0; }
.head p { margin: 2px 0 0; color: var(--body-text-color-subdued); }
.head p:empty { display: none; }
.head b { font-weight: 500; color: var(--bad); }
.side h2 { font-size: 1rem; font-weight: 600; margin: 0 0 8px; }
.side p { margin: 0; }
.side .note, .outcomes .note { color: var(--body-text-color-subdued); }
.card, .side details { background: var(--block-background-fill); margin-bottom: 10px;
  border: 1px solid var(--border-color-primary); padding: 10px 12px; }
.card { border-left: 4px solid var(--amber); }
.card h3, .side summary { font-size: .9rem; font-weight: 600; margin: 0; }
.card .place { font-size: .8125rem; color: var(--body-text-color-subdued); margin: 1px 0 6px; }
.card .text { font-size: .9rem; line-height: 1.5; white-space: pre-line;
  max-height: 16rem; overflow-y: auto; }
.side summary { cursor: pointer; }
.side details .card { margin: 10px 0 0; border-left-color: var(--border-color-primary); }
mark { background: var(--marked); color: #29343d; padding: 1px 0; }
.outcomes progress { width: 100%; height: 8px; accent-color: var(--color-accent); }
.outcomes ul { list-style: none; margin: 8px 0 0; padding: 0; max-height: 20rem; overflow-y: auto; }
.outcomes li { padding: 4px 0 4px 10px; margin: 0 0 4px; border-left: 4px solid var(--good); }
.outcomes li.failed { border-left-color: var(--bad); }
.small { flex: none !important; width: auto; align-self: flex-start; }
.ask button { background: var(--button-primary-background-fill); border-radius: 0;
  color: var(--button-primary-text-color); padding: 4px 16px; }
.ask button:hover { background: var(--button-primary-background-fill-hover); }
.ask .stop-button { background: var(--bad); }
.tab-container button.selected { color: var(--body-text-color); }
:focus-visible { outline: 2px solid var(--color-accent); outline-offset: 1px; }
.listed .wrap { flex-direction: column; max-height: 24rem; overflow-y: auto; flex-wrap: nowrap; }
.listed label span { white-space: pre-line; }
.listed label span::first-line { font-weight: 500; }
@media (max-width: 640px) {
  .talk { height: calc(100dvh - 440px) !important; }
  .head h1 { font-size: 1.25rem; }
  .head p { font-size: .8125rem; line-height: 1.4; }
}
"""


def theme() -> gr.themes.Base:
    """Light and dark, whichever the reader's system asks for."""
    return gr.themes.Base(
        primary_hue=TEAL,
        secondary_hue=TEAL,
        neutral_hue=SLATE,
        radius_size=sizes.radius_none,
        spacing_size=sizes.spacing_md,
        text_size=sizes.text_md,
        font=[fonts.Font("Poppins"), "system-ui", "sans-serif"],
        font_mono=[fonts.Font("Noto Sans Mono"), "ui-monospace", "monospace"],
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_900",
        body_text_color="#333333",
        body_text_color_dark="#fafafa",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_background_fill="#ffffff",
        block_background_fill_dark="*neutral_800",
        border_color_primary="*neutral_200",
        border_color_primary_dark="#6a828f",
        input_background_fill="#ffffff",
        input_background_fill_dark="*neutral_900",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        checkbox_border_color="*neutral_400",
        checkbox_border_color_dark="#6a828f",
        checkbox_label_background_fill="*neutral_50",
        checkbox_label_background_fill_dark="*neutral_900",
        checkbox_label_background_fill_selected="*primary_100",
        checkbox_label_background_fill_selected_dark="*neutral_700",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_500",
        button_primary_background_fill_dark="*primary_400",
        button_primary_background_fill_hover_dark="*primary_300",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="*neutral_950",
        button_cancel_background_fill="#a6544d",
        button_cancel_background_fill_hover="#8d4640",
        button_cancel_text_color="#ffffff",
    )

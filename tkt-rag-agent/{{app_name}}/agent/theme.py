"""Colours and fonts of the page: teal and amber, square corners, no font fetched from anywhere.

What Gradio's theme cannot say stands in `page.css`.
"""

from pathlib import Path

import gradio as gr
from gradio.themes.utils import colors, fonts, sizes

# From 50, the lightest, to 950.
TEAL = colors.Color(
    *("#eef5f8", "#dbe9ef", "#bdd5df", "#93b9c9", "#70a5bc", "#3c82a3"),
    *("#2b5e76", "#254f63", "#20404f", "#1a3340", "#122530", "teal"),
)
SLATE = colors.Color(
    *("#fcfcfa", "#f3f3f1", "#e5e5e4", "#cfd2d3", "#9aa5ab", "#5f6e77"),
    *("#52616b", "#3f4f5b", "#303d47", "#29343d", "#1f282f", "slate"),
)

CSS = Path(__file__).with_name("page.css")


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
        button_cancel_background_fill_dark="#a6544d",
        button_cancel_background_fill_hover="#8d4640",
        button_cancel_background_fill_hover_dark="#8d4640",
        button_cancel_text_color="#ffffff",
        button_cancel_text_color_dark="#ffffff",
    )

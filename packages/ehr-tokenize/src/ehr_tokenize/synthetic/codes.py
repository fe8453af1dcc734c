"""Every code the synthetic cohort can hold, with its description and its place in its hierarchy.

Descriptions of ICD-10-CM, ATC and LOINC are the official titles, sometimes shortened; those of CPT
are our own words.
"""

from collections.abc import Mapping

from ehr_tokenize.synthetic.conditions import LABS

BIRTH, DEATH = "MEDS_BIRTH", "MEDS_DEATH"
VISIT_START, VISIT_END = "VISIT_START//OUTPATIENT", "VISIT_END//OUTPATIENT"
EMERGENCY, ELECTIVE = "HOSPITAL_ADMISSION//EMERGENCY", "HOSPITAL_ADMISSION//ELECTIVE"
HOME, NURSING, DIED = (
    "HOSPITAL_DISCHARGE//HOME",
    "HOSPITAL_DISCHARGE//SKILLED NURSING FACILITY",
    "HOSPITAL_DISCHARGE//DIED",
)

_ADMINISTRATIVE = {
    BIRTH: "Birth",
    DEATH: "Death",
    VISIT_START: "Start of an outpatient visit",
    VISIT_END: "End of an outpatient visit",
    EMERGENCY: "Emergency admission to hospital",
    ELECTIVE: "Elective admission to hospital",
    HOME: "Discharged home",
    NURSING: "Discharged to a skilled nursing facility",
    DIED: "Died in hospital",
    "GENDER//F": "Female",
    "GENDER//M": "Male",
    "RACE//WHITE": "White",
    "RACE//BLACK": "Black",
    "RACE//HISPANIC": "Hispanic",
    "RACE//ASIAN": "Asian",
    "RACE//OTHER": "Other race",
}

ICD10CM = {
    "A41.9": "Sepsis, unspecified organism",
    "B34.9": "Viral infection, unspecified",
    "C18.9": "Malignant neoplasm of colon, unspecified",
    "C77.2": "Secondary and unspecified malignant neoplasm of intra-abdominal lymph nodes",
    "C78.7": "Secondary malignant neoplasm of liver and intrahepatic bile duct",
    "E11.9": "Type 2 diabetes mellitus without complications",
    "E11.65": "Type 2 diabetes mellitus with hyperglycemia",
    "E11.40": "Type 2 diabetes mellitus with diabetic neuropathy, unspecified",
    "E78.5": "Hyperlipidemia, unspecified",
    "E78.2": "Mixed hyperlipidemia",
    "E78.01": "Familial hypercholesterolemia",
    "F32.A": "Depression, unspecified",
    "F33.1": "Major depressive disorder, recurrent, moderate",
    "F33.2": "Major depressive disorder, recurrent severe without psychotic features",
    "G47.00": "Insomnia, unspecified",
    "H10.9": "Unspecified conjunctivitis",
    "I10": "Essential (primary) hypertension",
    "I11.9": "Hypertensive heart disease without heart failure",
    "I16.0": "Hypertensive urgency",
    "I21.4": "Non-ST elevation (NSTEMI) myocardial infarction",
    "I25.10": "Atherosclerotic heart disease of native coronary artery without angina pectoris",
    "I25.119": "Atherosclerotic heart disease of native coronary artery with unspecified angina pectoris",
    "I25.5": "Ischemic cardiomyopathy",
    "I48.0": "Paroxysmal atrial fibrillation",
    "I48.19": "Other persistent atrial fibrillation",
    "I48.21": "Permanent atrial fibrillation",
    "I50.9": "Heart failure, unspecified",
    "I50.22": "Chronic systolic (congestive) heart failure",
    "I50.23": "Acute on chronic systolic (congestive) heart failure",
    "I50.84": "End stage heart failure",
    "J06.9": "Acute upper respiratory infection, unspecified",
    "J18.9": "Pneumonia, unspecified organism",
    "J30.9": "Allergic rhinitis, unspecified",
    "J44.9": "Chronic obstructive pulmonary disease, unspecified",
    "J44.1": "Chronic obstructive pulmonary disease with (acute) exacerbation",
    "J96.01": "Acute respiratory failure with hypoxia",
    "J96.11": "Chronic respiratory failure with hypoxia",
    "K21.9": "Gastro-esophageal reflux disease without esophagitis",
    "K35.80": "Unspecified acute appendicitis",
    "K92.2": "Gastrointestinal hemorrhage, unspecified",
    "L30.9": "Dermatitis, unspecified",
    "M17.11": "Unilateral primary osteoarthritis, right knee",
    "M25.561": "Pain in right knee",
    "M54.50": "Low back pain, unspecified",
    "M79.10": "Myalgia, unspecified site",
    "N17.9": "Acute kidney failure, unspecified",
    "N18.30": "Chronic kidney disease, stage 3 unspecified",
    "N18.4": "Chronic kidney disease, stage 4 (severe)",
    "N18.6": "End stage renal disease",
    "N39.0": "Urinary tract infection, site not specified",
    "R05.9": "Cough, unspecified",
    "R07.9": "Chest pain, unspecified",
    "R10.9": "Unspecified abdominal pain",
    "R42": "Dizziness and giddiness",
    "R51.9": "Headache, unspecified",
    "S72.001A": "Fracture of unspecified part of neck of right femur, initial encounter for closed fracture",
    "Z00.00": "Encounter for general adult medical examination without abnormal findings",
    "Z23": "Encounter for immunization",
}
_ICD10CM_CATEGORIES = {
    "A41": "Other sepsis",
    "B34": "Viral infection of unspecified site",
    "C18": "Malignant neoplasm of colon",
    "C77": "Secondary and unspecified malignant neoplasm of lymph nodes",
    "C78": "Secondary malignant neoplasm of respiratory and digestive organs",
    "E11": "Type 2 diabetes mellitus",
    "E78": "Disorders of lipoprotein metabolism and other lipidemias",
    "F32": "Depressive episode",
    "F33": "Major depressive disorder, recurrent",
    "G47": "Sleep disorders",
    "H10": "Conjunctivitis",
    "I11": "Hypertensive heart disease",
    "I16": "Hypertensive crisis",
    "I21": "Acute myocardial infarction",
    "I25": "Chronic ischemic heart disease",
    "I48": "Atrial fibrillation and flutter",
    "I50": "Heart failure",
    "J06": "Acute upper respiratory infections of multiple and unspecified sites",
    "J18": "Pneumonia, unspecified organism",
    "J30": "Vasomotor and allergic rhinitis",
    "J44": "Other chronic obstructive pulmonary disease",
    "J96": "Respiratory failure, not elsewhere classified",
    "K21": "Gastro-esophageal reflux disease",
    "K35": "Acute appendicitis",
    "K92": "Other diseases of digestive system",
    "L30": "Other and unspecified dermatitis",
    "M17": "Osteoarthritis of knee",
    "M25": "Other joint disorder, not elsewhere classified",
    "M54": "Dorsalgia",
    "M79": "Other and unspecified soft tissue disorders, not elsewhere classified",
    "N17": "Acute kidney failure",
    "N18": "Chronic kidney disease (CKD)",
    "N39": "Other disorders of urinary system",
    "R05": "Cough",
    "R07": "Pain in throat and chest",
    "R10": "Abdominal and pelvic pain",
    "R51": "Headache",
    "S72": "Fracture of femur",
    "Z00": "Encounter for general examination without complaint, suspected or reported diagnosis",
}
_ICD10CM_CHAPTERS = {
    "A": "Certain infectious and parasitic diseases",
    "B": "Certain infectious and parasitic diseases",
    "C": "Neoplasms",
    "E": "Endocrine, nutritional and metabolic diseases",
    "F": "Mental, behavioral and neurodevelopmental disorders",
    "G": "Diseases of the nervous system",
    "H": "Diseases of the eye and adnexa or of the ear",
    "I": "Diseases of the circulatory system",
    "J": "Diseases of the respiratory system",
    "K": "Diseases of the digestive system",
    "L": "Diseases of the skin and subcutaneous tissue",
    "M": "Diseases of the musculoskeletal system and connective tissue",
    "N": "Diseases of the genitourinary system",
    "R": "Symptoms, signs and abnormal clinical and laboratory findings, not elsewhere classified",
    "S": "Injury, poisoning and certain other consequences of external causes",
    "Z": "Factors influencing health status and contact with health services",
}

ATC = {
    "A02BC01": "omeprazole", "A10AE04": "insulin glargine", "A10BA02": "metformin",
    "A10BK01": "dapagliflozin", "A11CC04": "calcitriol", "B01AB05": "enoxaparin",
    "B01AC06": "acetylsalicylic acid", "B01AF02": "apixaban", "B03XA01": "erythropoietin",
    "B05BB01": "electrolytes", "C01AA05": "digoxin", "C01BD01": "amiodarone",
    "C01DA14": "isosorbide mononitrate", "C03CA01": "furosemide", "C03DA01": "spironolactone",
    "C07AB02": "metoprolol", "C08CA01": "amlodipine", "C09AA03": "lisinopril",
    "C09DX04": "valsartan and sacubitril", "C10AA05": "atorvastatin", "C10AX09": "ezetimibe",
    "C10AX13": "evolocumab", "H02AB06": "prednisolone", "J01CA04": "amoxicillin",
    "J01DD04": "ceftriaxone", "L01BC02": "fluorouracil", "L01XA03": "oxaliplatin",
    "M01AE01": "ibuprofen", "N02AA01": "morphine", "N02BE01": "paracetamol",
    "N05AH04": "quetiapine", "N06AB06": "sertraline", "N06AX11": "mirtazapine",
    "R03AC02": "salbutamol", "R03BB04": "tiotropium bromide", "V03AE02": "sevelamer",
}  # fmt: skip
_ATC_CLASSES = {
    "A": "Alimentary tract and metabolism",
    "A02": "Drugs for acid related disorders",
    "A02BC": "Proton pump inhibitors",
    "A10": "Drugs used in diabetes",
    "A10AE": "Insulins and analogues for injection, long-acting",
    "A10BA": "Biguanides",
    "A10BK": "Sodium-glucose co-transporter 2 (SGLT2) inhibitors",
    "A11": "Vitamins",
    "A11CC": "Vitamin D and analogues",
    "B": "Blood and blood forming organs",
    "B01": "Antithrombotic agents",
    "B01AB": "Heparin group",
    "B01AC": "Platelet aggregation inhibitors excl. heparin",
    "B01AF": "Direct factor Xa inhibitors",
    "B03": "Antianemic preparations",
    "B03XA": "Other antianemic preparations",
    "B05": "Blood substitutes and perfusion solutions",
    "B05BB": "Solutions affecting the electrolyte balance",
    "C": "Cardiovascular system",
    "C01": "Cardiac therapy",
    "C01AA": "Digitalis glycosides",
    "C01BD": "Antiarrhythmics, class III",
    "C01DA": "Organic nitrates",
    "C03": "Diuretics",
    "C03CA": "Sulfonamides, plain",
    "C03DA": "Aldosterone antagonists",
    "C07": "Beta blocking agents",
    "C07AB": "Beta blocking agents, selective",
    "C08": "Calcium channel blockers",
    "C08CA": "Dihydropyridine derivatives",
    "C09": "Agents acting on the renin-angiotensin system",
    "C09AA": "ACE inhibitors, plain",
    "C09DX": "Angiotensin II receptor blockers (ARBs), other combinations",
    "C10": "Lipid modifying agents",
    "C10AA": "HMG CoA reductase inhibitors",
    "C10AX": "Other lipid modifying agents",
    "H": "Systemic hormonal preparations, excl. sex hormones and insulins",
    "H02": "Corticosteroids for systemic use",
    "H02AB": "Glucocorticoids",
    "J": "Antiinfectives for systemic use",
    "J01": "Antibacterials for systemic use",
    "J01CA": "Penicillins with extended spectrum",
    "J01DD": "Third-generation cephalosporins",
    "L": "Antineoplastic and immunomodulating agents",
    "L01": "Antineoplastic agents",
    "L01BC": "Pyrimidine analogues",
    "L01XA": "Platinum compounds",
    "M": "Musculo-skeletal system",
    "M01": "Antiinflammatory and antirheumatic products",
    "M01AE": "Propionic acid derivatives",
    "N": "Nervous system",
    "N02": "Analgesics",
    "N02AA": "Natural opium alkaloids",
    "N02BE": "Anilides",
    "N05": "Psycholeptics",
    "N05AH": "Diazepines, oxazepines, thiazepines and oxepines",
    "N06": "Psychoanaleptics",
    "N06AB": "Selective serotonin reuptake inhibitors",
    "N06AX": "Other antidepressants",
    "R": "Respiratory system",
    "R03": "Drugs for obstructive airway diseases",
    "R03AC": "Selective beta-2-adrenoreceptor agonists",
    "R03BB": "Anticholinergics",
    "V": "Various",
    "V03": "All other therapeutic products",
    "V03AE": "Drugs for treatment of hyperkalemia and hyperphosphatemia",
}

CPT = {
    "99213": "Office visit, established patient, low complexity",
    "99214": "Office visit, established patient, moderate complexity",
    "99223": "First day of hospital care, high complexity",
    "99239": "Discharge day management, over 30 minutes",
    "93000": "Electrocardiogram with interpretation",
    "71046": "Chest X-ray, two views",
    "93306": "Transthoracic echocardiogram, complete",
    "94010": "Spirometry",
    "96413": "Chemotherapy infusion, first hour",
    "90834": "Psychotherapy, 45 minutes",
    "90935": "Hemodialysis with one evaluation",
    "31500": "Emergency endotracheal intubation",
    "92928": "Coronary stent, one vessel",
    "27130": "Total hip replacement",
    "90686": "Influenza vaccination",
}

LOINC = {
    "8480-6": "Systolic blood pressure",
    "8867-4": "Heart rate",
    "59408-5": "Oxygen saturation in Arterial blood by Pulse oximetry",
    "39156-5": "Body mass index (BMI) [Ratio]",
    "4548-4": "Hemoglobin A1c/Hemoglobin.total in Blood",
    "2345-7": "Glucose [Mass/volume] in Serum or Plasma",
    "2160-0": "Creatinine [Mass/volume] in Serum or Plasma",
    "3094-0": "Urea nitrogen [Mass/volume] in Serum or Plasma",
    "2823-3": "Potassium [Moles/volume] in Serum or Plasma",
    "2951-2": "Sodium [Moles/volume] in Serum or Plasma",
    "718-7": "Hemoglobin [Mass/volume] in Blood",
    "6690-2": "Leukocytes [#/volume] in Blood by Automated count",
    "1988-5": "C reactive protein [Mass/volume] in Serum or Plasma",
    "2524-7": "Lactate [Moles/volume] in Serum or Plasma",
    "30934-4": "Natriuretic peptide B [Mass/volume] in Serum or Plasma",
    "10839-9": "Troponin I.cardiac [Mass/volume] in Serum or Plasma",
    "2089-1": "Cholesterol in LDL [Mass/volume] in Serum or Plasma",
}


def diagnosis(icd: str) -> str:
    """The MEDS code of an ICD-10-CM diagnosis."""
    return f"DIAGNOSIS//ICD10CM//{icd}"


def medication(atc: str) -> str:
    """The MEDS code of an ATC substance."""
    return f"MEDICATION//ATC//{atc}"


def procedure(cpt: str) -> str:
    """The MEDS code of a CPT procedure."""
    return f"PROCEDURE//CPT//{cpt}"


def measurements() -> tuple[str, ...]:
    """The MEDS codes of `LABS`, in that order, with the unit as last part."""
    return tuple(f"{'VITAL' if x.vital else 'LAB'}//LOINC//{x.loinc}//{x.unit}" for x in LABS)


def code_table() -> list[tuple[str, str, list[str]]]:
    """Rows (code, description, parents) of `codes.parquet`, sorted by code.

    Events have the codes with `//`; their parents are `VOCABULARY/code` and stand in the table too,
    up to the root of each hierarchy.

    Examples:
        >>> {row[0]: row[2] for row in code_table()}["DIAGNOSIS//ICD10CM//E11.9"]
        ['ICD10CM/E11']
    """
    rows: list[tuple[str, str, list[str]]] = [(c, d, []) for c, d in _ADMINISTRATIVE.items()]
    for code, text in ICD10CM.items():
        rows.append((diagnosis(code), text, [f"ICD10CM/{code[:3]}"]))
    categories = _ICD10CM_CATEGORIES | {c: d for c, d in ICD10CM.items() if len(c) == 3}
    for code, text in categories.items():
        rows.append((f"ICD10CM/{code}", text, [f"ICD10CM/{code[0]}"]))
    rows += [(f"ICD10CM/{code}", text, []) for code, text in _ICD10CM_CHAPTERS.items()]
    rows += [(medication(code), text, [f"ATC/{code[:5]}"]) for code, text in ATC.items()]
    rows += [(f"ATC/{c}", text, _atc_parents(c, _ATC_CLASSES)) for c, text in _ATC_CLASSES.items()]
    rows += [(procedure(code), text, []) for code, text in CPT.items()]
    for code, lab in zip(measurements(), LABS, strict=True):
        rows.append((code, LOINC[lab.loinc], [f"LOINC/{lab.loinc}"]))
    rows += [(f"LOINC/{code}", text, []) for code, text in LOINC.items()]
    return sorted(rows)


def _atc_parents(code: str, classes: Mapping[str, str]) -> list[str]:
    above = next((code[:n] for n in (3, 1) if n < len(code) and code[:n] in classes), None)
    return [f"ATC/{above}"] if above else []
